"""The addresses of a target, as the system gives them, and in words why there are none.

Importing this needs no library: a health check does.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NamedTuple

from greetsvc.address import Address
from greetsvc.client.target import Target

__all__ = ["FAMILIES", "SocketAddress", "addresses", "ask_resolver", "bad_literal", "failure_of"]

FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_UNKNOWN_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


class SocketAddress(NamedTuple):
    """An address as the system takes it: the family, and the tuple for ``connect`` or ``sendto``."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def address(self) -> Address:
        """Host and port; a link-local IPv6 address with its zone."""
        host, port, *rest = self.sockaddr
        zone = rest[1] if len(rest) == 2 else 0
        return Address(f"{host}%{zone}" if zone else host, port)


def failure_of(error: OSError) -> tuple[int, str]:
    """The errno and the words for a look-up that failed."""
    if isinstance(error, socket.gaierror):
        number = errno.ENOENT if error.errno in _UNKNOWN_NAME else _shortage() or errno.EAGAIN
        words = error.strerror or "the look-up failed"
        return number, words if number in (errno.ENOENT, errno.EAGAIN) else os.strerror(number)
    return error.errno or errno.EIO, os.strerror(error.errno) if error.errno else str(error)


def bad_literal(target: Target, error: OSError) -> tuple[int, str]:
    """The same for a host that is an address, where no look-up helps: its zone may be no interface of this host."""
    _, percent, zone = target.host.partition("%")
    return (errno.ENODEV, f"this host has no interface {zone}") if percent else failure_of(error)


def _shortage() -> int:
    """The errno when this process cannot open a file. The resolver then fails, and says nothing of the reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or 0
    return 0


def addresses(target: Target, family: int, flags: int = 0) -> list[SocketAddress]:
    """The addresses of a target.

    :raises OSError: when there is none.
    """
    kind = socket.SOCK_DGRAM if target.datagram else socket.SOCK_STREAM
    found = socket.getaddrinfo(target.host, target.port, family, kind, flags=flags)
    return [SocketAddress(family, sockaddr) for family, _, _, _, sockaddr in found]


def ask_resolver(target: Target, family: int) -> list[SocketAddress]:
    """The addresses of a name. Where it has only those of the other family, that is the error, not the name."""
    try:
        return addresses(target, family)
    except socket.gaierror as error:
        if family == socket.AF_UNSPEC or error.errno not in _UNKNOWN_NAME:
            raise
        others = dict.fromkeys(each.address.host for each in addresses(target, socket.AF_UNSPEC))
        wanted, other = ("IPv4", "IPv6") if family == socket.AF_INET else ("IPv6", "IPv4")
        words = f"the name has no {wanted} address, only {other}: {', '.join(others)}"
        raise socket.gaierror(error.errno, words) from None
