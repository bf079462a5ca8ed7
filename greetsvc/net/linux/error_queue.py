"""The error queue of a socket (Linux): what ICMP reported, and which host did (ip(7), IP_RECVERR).

It needs no privilege. A connecting TCP socket has one too: there the ICMP message ends the attempt.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["AVAILABLE", "QueuedError", "options", "parse", "read", "turn_off", "turn_on"]

AVAILABLE = sys.platform == "linux"

# IP_RECVERR (linux/in.h) and IPV6_RECVERR (linux/in6.h).
_V4, _V6 = (socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)
_EXTENDED = struct.Struct("=IBBBBII")
"""``struct sock_extended_err`` (linux/errqueue.h): errno, origin, type, code, pad, info, data.

The address of the offender, the host that sent the ICMP message, follows it.
"""


_ICMP_ORIGINS: dict[int, Literal[4, 6]] = {2: 4, 3: 6}
"""SO_EE_ORIGIN_ICMP and SO_EE_ORIGIN_ICMP6; 1 is local: this host refused without any packet."""

_MAX_ENTRIES = 256
"""Entries that `read` takes at once. A flood of ICMP must not keep it busy."""


class QueuedError(NamedTuple):
    """One entry: the errno that the kernel maps it to, and the address of the host that sent it, or None.

    ``icmp_version`` is 4 for ICMP and 6 for ICMPv6, with ``type`` and ``code``; None where it is not from ICMP.
    ``mtu`` is what "too long" (EMSGSIZE) names, in bytes. ``quoted`` is how the payload of our own datagram began;
    a router need not quote more than the header (RFC 792).
    """

    errno: int
    offender: str | None
    icmp_version: Literal[4, 6] | None = None
    type: int = 0
    code: int = 0
    mtu: int = 0
    quoted: bytes = b""


def turn_on(sock: socket.SocketType) -> None:
    """Have errors queued. They are then reported to an unconnected socket too, which otherwise hears of none."""
    _set(sock, 1)


def turn_off(sock: socket.SocketType) -> None:
    """Empty the queue, and have none any more.

    A TCP socket with a queue takes an ICMP error for final even when it is connected, against RFC 1122 4.2.3.9.
    """
    _set(sock, 0)


def _set(sock: socket.SocketType, value: int) -> None:
    for each in options(sock.family):
        sock.setsockopt(*each, value)


def options(family: int) -> list[tuple[int, int]]:
    """The level and the name of each socket option that turns the queue on.

    What an IPv6 socket sends to an IPv4-mapped address has the options of IPv4.
    """
    return [_V4] if family == socket.AF_INET else [_V6, _V4]


def read(sock: socket.SocketType, quoted: int = 0) -> list[QueuedError]:
    """Take the entries from the queue, each with at most ``quoted`` bytes of the datagram that it is about."""
    found: list[QueuedError] = []
    while len(found) < _MAX_ENTRIES:
        try:
            data, ancillary, _, _ = sock.recvmsg(quoted, 512, socket.MSG_ERRQUEUE)
        except OSError:
            break
        found.extend(parse(ancillary, data))
    return found


def parse(ancillary: Iterable[tuple[int, int, bytes]], quoted: bytes = b"") -> list[QueuedError]:
    """The entries in one message's ancillary data; ``quoted`` is its payload."""
    return [
        _entry(data, quoted)
        for level, kind, data in ancillary
        if (level, kind) in {_V4, _V6} and len(data) >= _EXTENDED.size
    ]


def _entry(data: bytes, quoted: bytes) -> QueuedError:
    number, origin, type_, code, _, info, _ = _EXTENDED.unpack_from(data)
    version = _ICMP_ORIGINS.get(origin)
    return QueuedError(
        errno=number,
        offender=_offender(data[_EXTENDED.size :]),
        icmp_version=version,
        type=type_ if version else 0,
        code=code if version else 0,
        mtu=info if number == errno.EMSGSIZE else 0,
        quoted=quoted,
    )


def _offender(sockaddr: bytes) -> str | None:
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``; None for AF_UNSPEC: this host itself said it."""
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(family, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(family, sockaddr[8:24])
    return None
