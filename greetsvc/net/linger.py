"""Lingering close: a socket whose greeting is sent waits here for its peer to finish, in bounded time.

`close()` on a socket with unread input makes the kernel send RST, which can destroy what was written and not
yet read at the other end (RFC 1122 4.2.2.13, RFC 2525 2.17). So the side that closes first sends its FIN, discards
what still arrives, and closes when the peer does. Most peers do so at once: each new socket is looked at once,
a moment later, and only what is still open then is watched.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import Interface, implementer

from greetsvc.net.deadline import Deadlines
from greetsvc.net.watch import Watch, watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
    from twisted.python.failure import Failure

    class _Reactor(IReactorTime, IReactorFDSet): ...


_log = Logger()

__all__ = ["AT_LEAST", "ILingers", "Lingerers", "WhenClosed"]

AT_LEAST = 16 * 1024 * 1024
"""Bytes of a peer that are discarded before it is cut off."""

SWEEP = 0.02
"""Seconds: a socket is looked at for the first time between one and two of these after its FIN."""

_CHUNK = 128 * 1024
_NONE: WhenClosed = ()
# With MSG_TRUNC Linux TCP drops the bytes without copying them (tcp(7)); elsewhere they land in the buffer.
_DISCARD = socket.MSG_DONTWAIT | (socket.MSG_TRUNC if sys.platform == "linux" else 0)
_RESET = struct.pack("ii", 1, 0)

WhenClosed = tuple["Callable[[], object]", ...]


class ILingers(Interface):
    """A transport whose ``loseConnection`` is a lingering close, for every protocol.

    A protocol that needs one on other transports too asks ``ILingers.providedBy(self.transport)``: TLS
    wrappers answer for the transport below them.
    """

    def call_when_closed(call: Callable[[], object]) -> None:  # noqa: N805 - in zope's interfaces there is no self
        """Call ``call()`` once, when the socket is really closed, which may be after ``connectionLost``.

        At once, if it is closed already.
        """

    def call_if_it_stays(call: Callable[[], object]) -> None:  # noqa: N805
        """Call ``call()`` once if the connection is still open after ``connectionMade``; at once, if that is over.

        So what only a connection that stays needs, as a deadline, costs nothing for one that does not.
        """


class Lingerers:
    """The sockets that sent their FIN and wait for their peer's.

    Each is bounded: ``silence`` seconds without a byte, ``lifetime`` seconds in all, and ``at_least`` bytes, after
    which the peer is reset. There are at most ``most``; beyond that the oldest is closed. A peer that reads
    its greeting slowly still gets all of it: the kernel goes on sending after `close`. ``watching`` is how those that
    stay are watched, the best way of the platform when left out.
    """

    def __init__(
        self,
        reactor: _Reactor,
        *,
        silence: float = 2.0,
        lifetime: float,
        at_least: int = AT_LEAST,
        most: int,
        watching: Watch | None = None,
    ) -> None:
        self._reactor = reactor
        self._at_least = at_least
        self._most = most
        self._buffer = bytearray(_CHUNK)
        self._young: deque[tuple[socket.socket, WhenClosed]] = deque()
        self._old: deque[tuple[socket.socket, WhenClosed]] = deque()
        self._drains: dict[_Drain, None] = {}  # in the order of their FINs
        self._silence: Deadlines[_Drain] = Deadlines(reactor, silence, self._finish)
        self._lifetime: Deadlines[_Drain] = Deadlines(reactor, lifetime, self._finish)
        self._sweeping: IDelayedCall | None = None
        self._watch = watch(reactor) if watching is None else watching
        self._stopped = False

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + len(self._drains)

    def add(self, sock: socket.socket, when_closed: WhenClosed = _NONE) -> None:
        """Take over ``sock``, whose sending side is shut down; call ``when_closed`` when it is closed."""
        if self._stopped:
            _close(sock, when_closed)
            return
        self._young.append((sock, when_closed))
        if self._sweeping is None:
            self._sweeping = self._reactor.callLater(SWEEP, self._sweep)
        if len(self._young) + len(self._old) + len(self._drains) > self._most:
            self._close_oldest()

    def stop(self) -> None:
        """Close every socket now, and those that are still to come at once; leave no timer behind."""
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for drain in list(self._drains):
            self._finish(drain)
        self._silence.stop()
        self._lifetime.stop()
        self._watch.stop()
        for waiting in (self._old, self._young):
            while waiting:
                _close(*waiting.popleft())

    def _close_oldest(self) -> None:
        if self._drains:
            self._finish(next(iter(self._drains)))
        else:
            _close(*(self._old or self._young).popleft())

    def _sweep(self) -> None:
        """Close those whose peer has closed by now, have the rest watched."""
        ready, self._old, self._young = self._old, self._young, deque()
        self._sweeping = self._reactor.callLater(SWEEP, self._sweep) if self._old else None
        buffer = self._buffer
        while ready:
            sock, when_closed = ready.popleft()
            try:
                size = sock.recv_into(buffer, _CHUNK, _DISCARD)
            except BlockingIOError:
                self._drain(sock, when_closed, 0)
            except OSError:
                _close(sock, when_closed)
            else:
                if size:
                    self._drain(sock, when_closed, size)
                else:
                    _close(sock, when_closed)

    def _drain(self, sock: socket.socket, when_closed: WhenClosed, size: int) -> None:
        drain = _Drain(self, sock, when_closed, size)
        self._drains[drain] = None
        self._silence.add(drain)
        self._lifetime.add(drain)
        sock.setblocking(False)
        self._watch.add(drain)

    def _discard(self, drain: _Drain) -> None:
        """The peer has sent something, or its FIN, or is gone."""
        try:
            size = drain.sock.recv_into(self._buffer, _CHUNK, _DISCARD)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        drain.taken += size
        if not size:
            self._finish(drain)
        elif drain.taken > self._at_least:
            drain.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._finish(drain)
        else:
            self._silence.add(drain)

    def _finish(self, drain: _Drain) -> None:
        if drain not in self._drains:
            return
        del self._drains[drain]
        self._silence.discard(drain)
        self._lifetime.discard(drain)
        self._watch.forget(drain)
        _close(drain.sock, drain.when_closed)


@implementer(IReadDescriptor)
class _Drain:
    """One lingering socket that is watched."""

    def __init__(self, lingerers: Lingerers, sock: socket.socket, when_closed: WhenClosed, taken: int) -> None:
        self._lingerers = lingerers
        self.sock = sock
        self.when_closed = when_closed
        self.taken = taken
        self.fileno = sock.fileno

    def logPrefix(self) -> str:
        """What the reactor calls this in the log."""
        return "lingering"

    def doRead(self) -> None:
        """Discard a bounded amount."""
        self._lingerers._discard(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or found the socket broken."""
        self._lingerers._finish(self)


def _close(sock: socket.socket, when_closed: WhenClosed) -> None:
    sock.close()
    for call in when_closed:
        try:
            call()
        except Exception:  # noqa: BLE001 - the other sockets still have to be closed
            _log.failure("A socket is closed, but whoever wanted to know failed")
