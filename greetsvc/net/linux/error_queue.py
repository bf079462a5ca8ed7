"""The error queue of a socket (Linux): what ICMP reported about a request, and which host did (ip(7), IP_RECVERR)."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

from attrs import frozen

__all__ = ["AVAILABLE", "Unreachable", "parse", "read", "turn_on"]

AVAILABLE = sys.platform == "linux"

_IP_RECVERR = 11  # linux/in.h
_IPV6_RECVERR = 25  # linux/in6.h
_EXTENDED = struct.Struct("=IBBBBII")
"""``struct sock_extended_err`` (linux/errqueue.h): errno, origin, type, code, pad, info, data.

The address of the offender, the host that sent the ICMP message, follows it.
"""


@frozen
class Unreachable:
    """One entry: the errno that the kernel maps it to, and the address of the host that sent it, or None."""

    errno: int
    offender: str | None


def turn_on(sock: socket.socket) -> None:
    """Have errors queued. They are then reported to an unconnected socket too, which otherwise hears of none."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def read(sock: socket.socket) -> list[Unreachable]:
    """Take all entries from the queue."""
    found: list[Unreachable] = []
    while True:
        try:
            # No data is wanted: only the ancillary data, which the kernel delivers even so.
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
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``; None for AF_UNSPEC: this host itself said it."""
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(family, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(family, sockaddr[8:24])
    return None
