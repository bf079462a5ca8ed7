"""What `accept` gave: a descriptor and a name, as the socket and the address that Twisted speaks of."""

from __future__ import annotations

import socket
import sys
from struct import Struct
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress

__all__ = ["ADDRESSES", "counts_queue", "queue_length", "whole"]

_new = object.__new__
_UNACKED = Struct("24xI")
"""``tcpi_unacked`` in the kernel's ``struct tcp_info`` (linux/tcp.h)."""


def counts_queue(listener: socket.socket) -> bool:
    """Whether `queue_length` knows about this listener."""
    try:
        return sys.platform == "linux" and queue_length(listener) >= 0
    except OSError:
        return False


def queue_length(listener: socket.socket) -> int:
    """How many connections wait to be accepted.

    To ask costs a sixth of what `accept` costs in vain, which makes a file before it finds that there is nothing
    to put into it. Linux keeps the number where connections have their unacknowledged segments.
    """
    length: int = _UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))[0]
    return length


class _Whole(socket.socket):
    """Is closed when it is told to, whatever was made of it meanwhile."""

    close = socket.SocketType.close


def whole(sock: socket.SocketType) -> socket.socket:
    """``sock`` as the class that Python offers; an accepted one is bare, which takes a third of the time to make."""
    if isinstance(sock, socket.socket):
        return sock
    timeout = sock.gettimeout()
    made = _Whole(sock.family, sock.type, sock.proto, sock.detach())
    made.settimeout(timeout)
    return made


def _ipv4(name: tuple[str, int]) -> IPv4Address:
    # Its initialiser would check that "TCP" is "TCP", for every connection.
    address: IPv4Address = _new(IPv4Address)
    address.type = "TCP"
    address.host, address.port = name
    return address


def _ipv6(name: tuple[str, int, int, int]) -> IPv6Address:
    if name[3]:
        # Python leaves the scope out of the host, and Twisted has it there.
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        return IPv6Address("TCP", host, *name[1:])
    return IPv6Address("TCP", *name)


def _unix(name: str | bytes | None) -> UNIXAddress:
    return UNIXAddress(name or None)


ADDRESSES: dict[int, Callable[[Any], IAddress]] = {
    socket.AF_INET: _ipv4,
    socket.AF_INET6: _ipv6,
    socket.AF_UNIX: _unix,
}
"""By address family: what makes an address of a name as the `socket` module has it."""
