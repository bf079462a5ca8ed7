"""Sockets by what they are bound to, so that new listeners take over those of the old ones with their queues."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from twisted.internet.error import CannotListenError

__all__ = ["BoundSockets", "BoundTo", "HeldError", "NotHeldError"]

_PATIENCE = 1.0
"""Seconds for which a place is tried again that a service manager was asked to clear."""

_PAUSE = 0.01
"""Seconds between two tries."""


class NotHeldError(Exception):
    """Another process has this socket, and this one is not to make a second one."""


class BoundTo(NamedTuple):
    """What a socket is bound to, as the settings name it: ``tcp``, ``udp`` and an address, or a UNIX kind and a path.

    Socket options do not count, except that an IPv6 socket that takes IPv4 too is another one than one for IPv6 only.
    """

    kind: str
    host: str
    port: int = 0
    v6only: bool = False

    def overlaps(self, other: BoundTo) -> bool:
        """Whether the two are in each other's way: the same transport and port, and an address that both have."""
        if not self.port or (self._transport, self.port) != (other._transport, other.port):
            return False
        try:
            one, two = (ip_address(bound.host.partition("%")[0] or "0.0.0.0") for bound in (self, other))
        except ValueError:
            return self.host == other.host  # names: see `of`
        if one.version == two.version:
            return one == two or one.is_unspecified or two.is_unspecified
        six, bound = (one, self) if one.version == 6 else (two, other)
        return not bound.v6only and six.is_unspecified

    def of(self, sock: socket.socket) -> BoundTo:
        """The same with the address and the port that ``sock``, which is bound to it, really has."""
        if sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return self
        host, port, *_ = sock.getsockname()
        return self._replace(host=host, port=port)

    @property
    def _transport(self) -> str:
        """The kind without what tells the admin site, or one of several workers, from the others."""
        return self.kind.removeprefix("admin/").partition("/")[0]


class HeldError(CannotListenError):
    """A socket that this service has is in the way of another one."""


class BoundSockets:
    """Makes the sockets of a service; of one that is ``held`` already, it makes a duplicate instead.

    Both then have the same queue, and either may be closed. ``bound`` has all sockets with their bindings.
    ``inherited`` has the held socket for each duplicate. Without ``makes`` there are no others.

    Held sockets that are in the way of a new one are closed by ``clear``, if it is given. It gets what the new one is
    to be bound to, and the held sockets that have a duplicate; it returns whether there were any.
    """

    def __init__(
        self,
        held: Iterable[tuple[BoundTo, socket.socket]] = (),
        *,
        makes: bool = True,
        clear: Callable[[BoundTo, Collection[socket.socket]], bool] | None = None,
    ) -> None:
        self._held = [(binding, sock) for binding, sock in held if sock.fileno() >= 0]
        self._makes = makes
        self._clear = clear
        self.bound: list[tuple[BoundTo, socket.socket]] = []
        self.inherited: dict[socket.socket, socket.socket] = {}

    def get(self, binding: BoundTo, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket for this binding, from ``make()`` if none is held.

        Raises `CannotListenError`, and `NotHeldError` where none is to be made.
        """
        held = next((one for one in self._held if one[0] == binding and one[1].fileno() >= 0), None)
        if held is None and not self._makes:
            raise NotHeldError(binding)
        if held is None:
            sock = self._made(binding, make)
        else:
            try:
                sock = held[1].dup()
            except OSError as error:
                raise CannotListenError(binding.host, binding.port or binding.host, error) from error
            self._held.remove(held)
            self.inherited[sock] = held[1]
        self.bound.append((binding, sock))
        return sock

    def _made(self, binding: BoundTo, make: Callable[[], socket.socket]) -> socket.socket:
        try:
            return make()
        except CannotListenError as error:
            if getattr(error.socketError, "errno", 0) != errno.EADDRINUSE:
                raise
            if self._clear is not None and self._clear(binding, self.inherited.values()):
                return _patiently(make)
            if any(bound.of(sock).overlaps(binding) for bound, sock in self._held if sock.fileno() >= 0):
                raise HeldError(  # type: ignore[no-untyped-call]
                    error.interface, error.port, error.socketError
                ) from error
            raise


def _patiently(make: Callable[[], socket.socket]) -> socket.socket:
    """What ``make`` returns, once the service manager has closed its duplicate of what was in the way."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return make()
        except CannotListenError:
            if time.monotonic() >= end:
                raise
        time.sleep(_PAUSE)
