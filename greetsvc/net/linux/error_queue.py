"""Linux's error queue of a datagram socket: what ICMP said about our request, and who said it (ip(7), IP_RECVERR)."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

from attrs import frozen

__all__ = ["AVAILABLE", "Unreachable", "parse", "read", "turn_on"]

AVAILABLE = sys.platform == "linux"

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED = struct.Struct("=IBBBBII")
"""``struct sock_extended_err`` (linux/errqueue.h): errno, origin, type, code, pad, info, data; then the offender."""


@frozen
class Unreachable:
    """One entry: the errno that the system makes of it, and the address of the host that sent it, where known."""

    errno: int
    offender: str | None


def turn_on(sock: socket.socket) -> None:
    """Have errors queued, and reported to a socket that is not connected."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def read(sock: socket.socket) -> list[Unreachable]:
    """Take everything that is queued."""
    found: list[Unreachable] = []
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return found
        found.extend(parse(ancillary))


def parse(ancillary: Iterable[tuple[int, int, bytes]]) -> list[Unreachable]:
    """The entries in one message's ancillary data."""
    return [
        Unreachable(_EXTENDED.unpack_from(data)[0], _offender(data[_EXTENDED.size :]))
        for level, kind, data in ancillary
        if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
        and len(data) >= _EXTENDED.size
    ]


def _offender(sockaddr: bytes) -> str | None:
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``; None for AF_UNSPEC: our own side said it."""
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(family, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(family, sockaddr[8:24])
    return None
