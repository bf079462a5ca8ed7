"""Lingering sockets whose peer stays: they are watched for input, and what arrives is discarded, within bounds."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from typing import TypeAlias

from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.deadlines import Deadlines

__all__ = ["DISCARD", "MAX_DISCARDED", "SILENCE", "LingerReactor", "WatchedSockets", "WhenClosed"]

SILENCE = 2.0
"""Seconds without a byte after which a lingering connection is closed."""

MAX_DISCARDED = 16 * 1024 * 1024
"""Bytes that one peer may send after the FIN before it is reset."""

DISCARD = socket.MSG_DONTWAIT | (socket.MSG_TRUNC if sys.platform == "linux" else 0)
"""The `recv` flags to discard input. With MSG_TRUNC Linux drops TCP data without copying it (tcp(7)); elsewhere the
data lands in the buffer. MSG_DONTWAIT, because the descriptor may still be a blocking one."""

_CHUNK = 128 * 1024
"""Bytes discarded by one call."""

_DISCARDED = bytearray(_CHUNK)
"""Where discarded bytes go, of all sockets: nobody reads it."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on with a time of 0: `close` sends RST and drops what was not sent (socket(7))."""


class LingerReactor(IReactorTime, IReactorFDSet):
    """What lingering needs of a reactor."""


WhenClosed: TypeAlias = Callable[[], object] | None


class WatchedSockets:
    """Discards what the peers send, and calls ``close(sock, when_closed)`` once for each socket that ends.

    A socket ends when its peer closes, after ``silence`` seconds without a byte, after ``lifetime`` seconds in all,
    and after `MAX_DISCARDED` bytes, in which case the peer is reset. ``buffer`` is where discarded bytes go; the
    sweep uses it too.
    """

    def __init__(
        self,
        reactor: LingerReactor,
        close: Callable[[socket.SocketType, WhenClosed], object],
        *,
        silence: float,
        lifetime: float,
    ) -> None:
        self.buffer = _DISCARDED
        self._close = close
        # `Deadlines` end in the order of adding, so these are two: silent since our FIN, and silent since a read.
        self._never_heard: Deadlines[_WatchedSocket] = Deadlines(reactor, silence, self.finish)
        self._silence: Deadlines[_WatchedSocket] = Deadlines(reactor, silence, self.finish)
        self._lifetime: Deadlines[_WatchedSocket] = Deadlines(reactor, lifetime, self.finish)
        self._reactor = reactor

    def add(self, sock: socket.SocketType, when_closed: WhenClosed, discarded: int, age: float) -> None:
        """Watch ``sock``, which has lingered for ``age`` seconds and of which ``discarded`` bytes were read."""
        watched = _WatchedSocket(self, sock, when_closed, discarded)
        if discarded:
            self._silence.add(watched)
        else:
            self._never_heard.add(watched, age)
        self._lifetime.add(watched, age)
        try:
            self._reactor.addReader(watched)
        except OSError:  # the reactor's epoll has no room for one more
            self.finish(watched)

    def close_oldest(self) -> bool:
        """Close the socket that was added first; False if there is none."""
        for watched in self._lifetime:
            self.finish(watched)
            return True
        return False

    def stop(self) -> None:
        """Close every socket, and leave no timer behind."""
        while self.close_oldest():
            pass
        self._never_heard.stop()
        self._silence.stop()
        self._lifetime.stop()

    def discard(self, watched: _WatchedSocket) -> None:
        """Discard a bounded amount of input; finish at the peer's FIN and when the connection is broken."""
        try:
            size = watched.sock.recv_into(self.buffer, 0, DISCARD)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        watched.discarded += size
        if not size:
            self.finish(watched)
        elif watched.discarded > MAX_DISCARDED:
            watched.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.finish(watched)
        else:
            self._never_heard.discard(watched)
            self._silence.add(watched)

    def finish(self, watched: _WatchedSocket) -> None:
        """Close one; without effect if it is closed."""
        if watched.fileno() >= 0:
            self._never_heard.discard(watched)
            self._silence.discard(watched)
            self._lifetime.discard(watched)
            self._reactor.removeReader(watched)
            self._close(watched.sock, watched.when_closed)


@implementer(IReadDescriptor)
class _WatchedSocket:
    """One watched socket, as the reactor knows it."""

    __slots__ = ("_sockets", "discarded", "fileno", "sock", "when_closed")

    def __init__(
        self, sockets: WatchedSockets, sock: socket.SocketType, when_closed: WhenClosed, discarded: int
    ) -> None:
        self._sockets = sockets
        self.sock = sock
        self.when_closed = when_closed
        self.discarded = discarded
        self.fileno = sock.fileno

    def logPrefix(self) -> str:
        """The name of this descriptor in the log."""
        return "lingering socket"

    def doRead(self) -> None:
        """Discard a bounded amount."""
        self._sockets.discard(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or found the socket broken."""
        self._sockets.finish(self)
