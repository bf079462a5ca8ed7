"""Sockets by what they are bound to, so that new listeners take over those of the old ones with their queues."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from attrs import frozen
from twisted.internet.error import CannotListenError

__all__ = ["BoundSockets", "BoundTo", "NotHeldError"]


class NotHeldError(Exception):
    """Another process has this socket, and this one is not to make a second one."""


@frozen
class BoundTo:
    """What a socket is bound to, as the settings name it: ``tcp``, ``udp`` and an address, or a UNIX kind and a path.

    Socket options do not count, except that an IPv6 socket that takes IPv4 too is another one than one for IPv6 only.
    """

    kind: str
    host: str
    port: int = 0
    v6only: bool = False


class BoundSockets:
    """Makes the sockets of a service; of one that is ``held`` already, it makes a duplicate instead.

    Both then have the same queue, and either may be closed. ``bound`` has all sockets with their bindings.
    ``inherited`` has the held socket for each duplicate. Without ``makes`` there are no others.
    """

    def __init__(self, held: Iterable[tuple[BoundTo, socket.socket]] = (), *, makes: bool = True) -> None:
        self._held = [(binding, sock) for binding, sock in held if sock.fileno() >= 0]
        self._makes = makes
        self.bound: list[tuple[BoundTo, socket.socket]] = []
        self.inherited: dict[socket.socket, socket.socket] = {}

    def get(self, binding: BoundTo, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket for this binding, from ``make()`` if none is held.

        Raises `CannotListenError`, and `NotHeldError` where none is to be made.
        """
        held = next((one for one in self._held if one[0] == binding), None)
        if held is None and not self._makes:
            raise NotHeldError(binding)
        if held is None:
            sock = make()
        else:
            try:
                sock = held[1].dup()
            except OSError as error:
                raise CannotListenError(binding.host, binding.port or binding.host, error) from error
            self._held.remove(held)
            self.inherited[sock] = held[1]
        self.bound.append((binding, sock))
        return sock
