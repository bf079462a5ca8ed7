# mypy: allow-untyped-calls
# (Twisted's transports are mostly without types.)
"""A server transport of which the reactor hears late: when there is something to wait for.

Twisted's own registers its descriptor before the protocol is made. One that greets and closes at once never
has to wait, and registering is a good part of what it costs.
"""

from __future__ import annotations

import socket

from twisted.internet import tcp

from greetsvc.net.stream.accepted import whole

__all__ = ["LateServer"]


class LateServer(tcp.Server):
    """Holds back what it would tell the reactor.

    It is *held* while a callback of its own runs, and from the beginning: ``_wants_reading`` (until it has said so to
    the reactor) and ``_wants_writing`` are looked at when the callback has returned. Until the descriptor is *known*
    outside of this object, it may be a blocking one.
    """

    _held = True
    _known = False
    _wants_reading = True
    _wants_writing = False

    def startReading(self) -> None:
        """Wait for input."""
        self._introduce()
        super().startReading()

    def stopReading(self) -> None:
        """Wait for input no longer."""
        self._wants_reading = False
        if self._known:
            super().stopReading()

    def startWriting(self) -> None:
        """Wait for room in the socket's buffer; in a callback, only note that."""
        if self._held:
            self._wants_writing = True
        elif self.fileno() >= 0:  # the protocol may have closed the socket
            super().startWriting()

    def stopWriting(self) -> None:
        """Wait for room no longer."""
        self._wants_writing = False
        if self._known:
            super().stopWriting()

    def _introduce(self) -> None:
        if not self._known:
            self._known = True
            self.socket.setblocking(False)
            self.fileno = self.socket.fileno  # type: ignore[method-assign]

    def fileno(self) -> int:  # in Twisted an attribute, as it is here once it is known
        """The descriptor, also while a protocol that may want to pass it on is connected; -1 when it is closed."""
        if self.disconnected or self.socket.fileno() < 0:
            return -1
        self._introduce()
        return self.socket.fileno()

    def getHandle(self) -> socket.socket:
        """The socket."""
        self._introduce()
        self.socket = whole(self.socket)
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        return self.socket
