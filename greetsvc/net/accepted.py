"""What `accept` gave: a descriptor and a name, as the socket and the address that Twisted speaks of."""

from __future__ import annotations

import _socket
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress

__all__ = ["ADDRESSES", "AcceptedSocket"]


class AcceptedSocket(socket.socket):
    """A socket that is made and closed in C alone, which Python's own does not: half the time."""

    _io_refs = 0
    _closed = False
    __init__ = _socket.socket.__init__
    close = _socket.socket.close


def _ipv4(name: tuple[str, int]) -> IPv4Address:
    # Its initialiser would check that "TCP" is "TCP", for every connection.
    address = IPv4Address.__new__(IPv4Address)
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
