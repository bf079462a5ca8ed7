"""Lingering close: a socket whose greeting is sent waits here for its peer to finish, in bounded time.

`close()` on a socket with unread input makes the kernel send RST, which can destroy what was written and not
yet read at the other end (RFC 1122 4.2.2.13, RFC 2525 2.17). So the side that closes first sends its FIN, discards
what still arrives, and closes when the peer does. Most peers do so within a round trip, so to be watched would cost
more than all the rest: each socket is looked at a few times instead, at growing ages, and only what is still open
after the last look, or has sent something, is watched (`greetsvc.net.linger.drain`).
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

from twisted.logger import Logger
from zope.interface import Interface

from greetsvc.net.linger.drain import AT_LEAST, DISCARD, SILENCE, Drains

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from twisted.internet.interfaces import IDelayedCall

    from greetsvc.net.linger.drain import LingerReactor, WhenClosed
    from greetsvc.net.linger.watch import Watch

    Sockets = deque[tuple[socket.SocketType, WhenClosed]]

_log = Logger()

__all__ = ["AGES", "SWEEP", "ILingers", "Lingerers"]

SWEEP = 0.005
"""Seconds for which sockets are gathered, to be looked at together: soon, as the processor still has them at hand."""

AGES = (1, 4, 16, 32, 64, 128)
"""In sweeps. A socket outlives its peer's FIN by the last step at most, a third of a second; by all of them among
others that are nearly all silent, where it may not be looked at before it is watched."""

_SAMPLE = 16
"""When so many more of a batch were found open than closed, the others wait for the next look as they are."""


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
        reactor: LingerReactor,
        *,
        silence: float = SILENCE,
        lifetime: float,
        at_least: int = AT_LEAST,
        most: int,
        watching: Watch | None = None,
    ) -> None:
        self._reactor = reactor
        self._most = most
        self._count = 0
        self._young: Sockets = deque()
        ages = [age * SWEEP for age in AGES if age * SWEEP < min(silence, lifetime)] or [SWEEP]
        # For each look: at what age, and the batches that wait for it with when they are due.
        self._looks: list[tuple[float, deque[tuple[float, Sockets]]]] = [(age, deque()) for age in ages]
        self._sweeping: IDelayedCall | None = None
        self._stopped = False
        self._drains = Drains(
            reactor,
            self._close,
            silence=silence,
            lifetime=lifetime,
            at_least=at_least,
            watching=watching,
        )

    def __len__(self) -> int:
        return self._count

    def add(self, sock: socket.SocketType, when_closed: WhenClosed = None) -> None:
        """Take over ``sock``, whose sending side is shut down; call ``when_closed()`` when it is closed."""
        self.extend(((sock, when_closed),))

    def extend(self, waiting: Collection[tuple[socket.SocketType, WhenClosed]]) -> None:
        """As `add` for each of them, at once."""
        self._count += len(waiting)
        first = not self._young
        self._young.extend(waiting)
        while self._count > self._most and self._close_oldest():
            pass
        if first and not self._stopped:
            self._sweep_in(SWEEP)

    def stop(self) -> None:
        """Close every socket now, and those that are still to come at once; leave no timer behind."""
        self._stopped = True
        self._most = 0
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._drains.stop()
        while self._close_oldest():
            pass

    def _close_oldest(self) -> bool:
        if self._drains.close_oldest():
            return True
        waiting = (batch for _, queue in reversed(self._looks) for _, batch in queue)
        for batch in chain(waiting, (self._young,)):
            if batch:
                self._close(*batch.popleft())
                return True
        return False

    def _sweep_in(self, seconds: float) -> None:
        """Sweep then, or earlier if that is so already."""
        if self._sweeping is None:
            self._sweeping = self._reactor.callLater(seconds, self._sweep)
        elif self._sweeping.getTime() > self._reactor.seconds() + seconds:
            self._sweeping.reset(seconds)

    def _sweep(self) -> None:
        """Look at those that are of an age to be looked at; have those watched that are beyond."""
        self._sweeping = None
        now = self._reactor.seconds()
        left, self._young = self._young, deque()
        before = 0.0
        for age, queue in self._looks:
            due: Sockets = deque()
            while queue and queue[0][0] <= now + SWEEP / 2:
                due.extend(queue.popleft()[1])
            if left:
                queue.append((now + (age - before), left))
            left = self._look(due, age)
            before = age
        for sock, when_closed in left:
            self._drains.add(sock, when_closed, 0, before)
        if self._stopped:
            self.stop()  # somebody who was told of a close did so before, and did not see those
        elif dues := [queue[0][0] for _, queue in self._looks if queue]:
            self._sweep_in(min(dues) - now)

    def _look(self, batch: Sockets, age: float) -> Sockets:
        """Close those whose peer has closed by now; those that are left to be looked at later."""
        buffer, close = self._drains.buffer, self._close
        left: Sockets = deque()
        hope = _SAMPLE
        for waiting in batch:
            if not hope:
                left.append(waiting)
                continue
            sock, when_closed = waiting
            try:
                size = sock.recv_into(buffer, 0, DISCARD)
            except BlockingIOError:
                hope -= 1
                left.append(waiting)
                continue
            except OSError:
                size = 0
            if size:
                self._drains.add(sock, when_closed, size, age)
            else:
                hope += 1
                close(sock, when_closed)
        return left

    def _close(self, sock: socket.SocketType, when_closed: WhenClosed) -> None:
        self._count -= 1
        sock.close()
        if when_closed is not None:
            try:
                when_closed()
            except Exception:  # noqa: BLE001 - the other sockets still have to be closed
                _log.failure("A socket is closed, but whoever wanted to know failed")
