"""Whether the packets of a UDP socket may be fragmented (Linux; ip(7), IP_MTU_DISCOVER; ipv6(7)).

A packet that must stay whole has DF set, or is an IPv6 packet without a fragment header. ``IP_PMTUDISC_PROBE`` sends
it when it fits our own link, whatever the kernel knows of the path: what is too long for the path is lost on the way.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["AVAILABLE", "fragment", "keep_whole", "kept_whole"]

AVAILABLE = sys.platform == "linux"

# linux/in.h and linux/in6.h
_V4, _V6 = (socket.IPPROTO_IP, 10), (socket.IPPROTO_IPV6, 23)
_DONT, _PROBE = 0, 3
_IPV6_MTU = 24
_IPV6_LEAST = 1280  # RFC 8200 5


def keep_whole(sock: socket.socket) -> None:
    """Have no packet of this socket fragmented; one that is too long for our own link is refused (EMSGSIZE)."""
    _discover(sock, _PROBE)


def fragment(sock: socket.socket, most: int) -> None:
    """Let the packets of this socket be fragmented: IPv6 ones here, into packets of at most ``most`` bytes."""
    _discover(sock, _DONT)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU, max(most, _IPV6_LEAST))


@contextmanager
def kept_whole(sock: socket.socket) -> Iterator[None]:
    """Have no packet fragmented that is sent within this block."""
    before = [(option, sock.getsockopt(*option)) for option in _options(sock)]
    keep_whole(sock)
    try:
        yield
    finally:
        for option, value in before:
            sock.setsockopt(*option, value)


def _options(sock: socket.socket) -> list[tuple[int, int]]:
    """The options that count. What an IPv6 socket sends to an IPv4-mapped address has those of IPv4."""
    return [_V4] if sock.family == socket.AF_INET else [_V6, _V4]


def _discover(sock: socket.socket, value: int) -> None:
    for option in _options(sock):
        sock.setsockopt(*option, value)
