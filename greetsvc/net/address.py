"""Twisted's address of a socket name: what `accept`, `recvfrom`, ``getsockname`` and ``getpeername`` return."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

__all__ = ["SocketAddress", "address_factory"]

SocketAddress: TypeAlias = IPv4Address | IPv6Address | UNIXAddress
Kind: TypeAlias = Literal["TCP", "UDP"]

_new = object.__new__


def address_factory(family: int, kind: Kind) -> Callable[[Any], SocketAddress]:
    """The function that turns names of sockets of this family into addresses.

    ``family`` is ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``; another raises `ValueError`.
    """
    if family == socket.AF_INET:
        return _ipv4(kind)
    if family == socket.AF_INET6:
        return partial(_ipv6, kind)
    if family == socket.AF_UNIX:
        return lambda name: UNIXAddress(name or None)
    raise ValueError(f"sockets of address family {family} are not supported: only IPv4, IPv6 and UNIX sockets are")


def _ipv4(kind: Kind) -> Callable[[tuple[str, int]], IPv4Address]:
    def address(name: tuple[str, int]) -> IPv4Address:
        # The initialiser validates the kind again, for every connection: a good part of what an address costs.
        made: IPv4Address = _new(IPv4Address)
        made.type = kind
        made.host, made.port = name
        return made

    return address


def _ipv6(kind: Kind, name: tuple[str, int, int, int]) -> IPv6Address:
    if name[3]:
        # Since 3.7 Python leaves the scope of a link-local address out of the host; Twisted has it there.
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        return IPv6Address(kind, host, *name[1:])
    return IPv6Address(kind, *name)
