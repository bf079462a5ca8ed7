"""Sockets whose peer is still there a while after our FIN: what it sends is discarded, within bounds."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from greetsvc.net.deadlines import Deadlines
from greetsvc.net.linger.watch import Watch, watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorFDSet, IReactorTime
    from twisted.python.failure import Failure

    class LingerReactor(IReactorTime, IReactorFDSet):
        """What lingering needs of a reactor."""

    WhenClosed = Callable[[], object] | None

__all__ = ["AT_LEAST", "DISCARD", "SILENCE", "Drains"]

SILENCE = 2.0
"""Seconds without a byte after which a lingering connection is closed."""

AT_LEAST = 16 * 1024 * 1024
"""Bytes of a peer that are discarded before it is cut off."""

# With MSG_TRUNC Linux TCP drops the bytes without copying them (tcp(7)); elsewhere they land in the buffer.
DISCARD = socket.MSG_DONTWAIT | (socket.MSG_TRUNC if sys.platform == "linux" else 0)
"""The flags that `recv` needs for that."""

_CHUNK = 128 * 1024
_RESET = struct.pack("ii", 1, 0)


class Drains:
    """Watches them, and calls ``close(sock, when_closed)`` for each that is done: once, and not after `stop`.

    Each has ``silence`` seconds without a byte, ``lifetime`` seconds in all, and ``at_least`` bytes, after which the
    peer is reset. ``buffer`` is where discarded bytes go, for whoever else discards some.
    """

    def __init__(
        self,
        reactor: LingerReactor,
        close: Callable[[socket.SocketType, WhenClosed], object],
        *,
        silence: float,
        lifetime: float,
        at_least: int,
        watching: Watch | None,
    ) -> None:
        self.buffer = bytearray(_CHUNK)
        self._close = close
        self._at_least = at_least
        self._unheard: Deadlines[_Drain] = Deadlines(reactor, silence, self.finish)
        self._silence: Deadlines[_Drain] = Deadlines(reactor, silence, self.finish)
        self._lifetime: Deadlines[_Drain] = Deadlines(reactor, lifetime, self.finish)
        self._watch = watch(reactor) if watching is None else watching

    def add(self, sock: socket.SocketType, when_closed: WhenClosed, taken: int, age: float) -> None:
        """Watch ``sock``, which has lingered for ``age`` seconds; ``taken`` bytes of it are discarded already."""
        drain = _Drain(self, sock, when_closed, taken)
        if taken:
            self._silence.add(drain)
        else:
            self._unheard.add(drain, age)
        self._lifetime.add(drain, age)
        try:
            self._watch.add(drain)
        except OSError:  # there is no room for one more
            self.finish(drain)

    def close_oldest(self) -> bool:
        """Close one; False if there is none."""
        for drain in self._lifetime:
            self.finish(drain)
            return True
        return False

    def stop(self) -> None:
        """Close every one, and leave no timer behind."""
        while self.close_oldest():
            pass
        self._unheard.stop()
        self._silence.stop()
        self._lifetime.stop()
        self._watch.stop()

    def discard(self, drain: _Drain) -> None:
        """The peer has sent something, or its FIN, or is gone."""
        try:
            size = drain.sock.recv_into(self.buffer, 0, DISCARD)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        drain.taken += size
        if not size:
            self.finish(drain)
        elif drain.taken > self._at_least:
            drain.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.finish(drain)
        else:
            self._unheard.discard(drain)
            self._silence.add(drain)

    def finish(self, drain: _Drain) -> None:
        """Be done with one; nothing if that is so already."""
        if drain.fileno() >= 0:
            self._unheard.discard(drain)
            self._silence.discard(drain)
            self._lifetime.discard(drain)
            self._watch.forget(drain)
            self._close(drain.sock, drain.when_closed)


@implementer(IReadDescriptor)
class _Drain:
    """One socket that is watched."""

    __slots__ = ("_drains", "fileno", "sock", "taken", "when_closed")

    def __init__(self, drains: Drains, sock: socket.SocketType, when_closed: WhenClosed, taken: int) -> None:
        self._drains = drains
        self.sock = sock
        self.when_closed = when_closed
        self.taken = taken
        self.fileno = sock.fileno

    def logPrefix(self) -> str:
        """What the reactor calls this in the log."""
        return "lingering"

    def doRead(self) -> None:
        """Discard a bounded amount."""
        self._drains.discard(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or found the socket broken."""
        self._drains.finish(self)
