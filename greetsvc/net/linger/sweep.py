"""Lingering close: a socket that has sent its FIN waits here, in bounded time, for its peer to close too.

`close()` on a socket with unread input makes the kernel send RST, which can destroy data that was sent and that the
peer has not read yet (RFC 1122 4.2.2.13, RFC 2525 2.17). So the side that closes first sends its FIN, discards what
still arrives, and closes when the peer does.

Most peers close within a round trip, and to register a descriptor with the reactor for that costs more than the
greeting. So each socket is first looked at (one non-blocking read) at a few growing ages; only a socket that is still
open after the last look, or that has received something, is watched (`greetsvc.net.linger.watched`). Looking again at
every socket every 20 ms took 86 % of a core for 9,000 silent peers.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Collection
from itertools import chain

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import Interface

from greetsvc.net.linger.watched import DISCARD, SILENCE, LingerReactor, WatchedSockets, WhenClosed

__all__ = ["AGES", "SWEEP", "ILingers", "Lingerers"]

Sockets = deque[tuple[socket.SocketType, WhenClosed]]

_log = Logger()

SWEEP = 0.005
"""Seconds for which new sockets are gathered, to be looked at together: soon, while they are in the CPU cache."""

AGES = (1, 4, 16, 32, 64, 128)
"""The ages of a socket, in sweeps, at which it is looked at: 5 to 640 ms.

After its peer's FIN a socket stays open until the next look, so a third of a second at most. A look may skip sockets
(`_SAMPLE`), so 0.7 s at most, where nearly all others are silent.
"""

_SAMPLE = 16
"""A look at a batch ends when it has found this many more sockets open than closed: the rest waits for the next look.

So a batch of silent sockets costs 16 system calls a look, however long it is.
"""


class ILingers(Interface):
    """A transport on which ``loseConnection`` is a lingering close, for every protocol.

    A protocol that needs a lingering close on other transports too checks ``ILingers.providedBy(self.transport)``;
    TLS transports answer for the transport below them.
    """

    def call_when_closed(call: Callable[[], object]) -> None:  # noqa: N805 - zope's interfaces have no self
        """Call ``call()`` once, when the socket is closed, which may be after ``connectionLost``.

        Now, if it is closed already.
        """

    def call_if_it_stays(call: Callable[[], object]) -> None:  # noqa: N805
        """Call ``call()`` once, after ``connectionMade``, if the connection is still open then.

        Now, if ``connectionMade`` is over. What only a connection that stays open needs, as a deadline, so costs
        nothing for one that does not.
        """


class Lingerers:
    """The sockets that have sent their FIN and wait for their peer's.

    Each ends when its peer closes, and at the latest after ``silence`` seconds without a byte, ``lifetime`` seconds
    in all, or `MAX_DISCARDED` bytes, in which case the peer is reset. There are at most ``max_sockets``; beyond
    that the oldest is closed. A peer that reads slowly still gets everything: the kernel sends on after `close`.
    ``count`` is the number of sockets.
    """

    def __init__(
        self,
        reactor: LingerReactor,
        *,
        silence: float = SILENCE,
        lifetime: float,
        max_sockets: int,
    ) -> None:
        self._reactor = reactor
        self._max_sockets = max_sockets
        self.count = 0
        self._new: Sockets = deque()
        ages = [age * SWEEP for age in AGES if age * SWEEP < min(silence, lifetime)] or [SWEEP]
        # For each look: the age at which it happens, and the batches that wait for it, with the time of each.
        self._looks: list[tuple[float, deque[tuple[float, Sockets]]]] = [(age, deque()) for age in ages]
        self._next_sweep: IDelayedCall | None = None
        self._stopped = False
        self._watched = WatchedSockets(reactor, self._close, silence=silence, lifetime=lifetime)

    def add(self, sock: socket.SocketType, when_closed: WhenClosed = None) -> None:
        """Take over ``sock``, whose sending side is shut down. ``when_closed()`` is called when it is closed."""
        self.extend(((sock, when_closed),))

    def extend(self, sockets: Collection[tuple[socket.SocketType, WhenClosed]]) -> None:
        """As `add`, for several sockets."""
        self.count += len(sockets)
        first = not self._new
        self._new.extend(sockets)
        while self.count > self._max_sockets and self._close_oldest():
            pass
        if first and not self._stopped:
            self._sweep_in(SWEEP)

    def stop(self) -> None:
        """Close every socket now, and later ones as they are added. Leaves no timer behind."""
        self._stopped = True
        self._max_sockets = 0
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None
        self._watched.stop()
        while self._close_oldest():
            pass

    def _close_oldest(self) -> bool:
        if self._watched.close_oldest():
            return True
        waiting = (batch for _, queue in reversed(self._looks) for _, batch in queue)
        for batch in chain(waiting, (self._new,)):
            if batch:
                self._close(*batch.popleft())
                return True
        return False

    def _sweep_in(self, seconds: float) -> None:
        """Sweep after ``seconds``, unless an earlier sweep is planned."""
        if self._next_sweep is None:
            self._next_sweep = self._reactor.callLater(seconds, self._sweep)
        elif self._next_sweep.getTime() > self._reactor.seconds() + seconds:
            self._next_sweep.reset(seconds)

    def _sweep(self) -> None:
        """Look at the sockets that have reached the age of a look; watch those that are past the last one."""
        self._next_sweep = None
        now = self._reactor.seconds()
        still_open, self._new = self._new, deque()
        age_before = 0.0
        for age, queue in self._looks:
            due: Sockets = deque()
            # Half a sweep early: batches that are due in the same sweep share one call of the reactor.
            while queue and queue[0][0] <= now + SWEEP / 2:
                due.extend(queue.popleft()[1])
            if still_open:
                queue.append((now + (age - age_before), still_open))
            still_open = self._look(due, age)
            age_before = age
        for sock, when_closed in still_open:
            self._watched.add(sock, when_closed, 0, age_before)
        if self._stopped:
            self.stop()  # a close callback called it, while this method held sockets that it could not see
        elif times := [queue[0][0] for _, queue in self._looks if queue]:
            self._sweep_in(min(times) - now)

    def _look(self, batch: Sockets, age: float) -> Sockets:
        """Close the sockets whose peer has closed, and return those that are still open and silent."""
        buffer, close = self._watched.buffer, self._close
        still_open: Sockets = deque()
        credit = _SAMPLE
        for waiting in batch:
            if not credit:
                still_open.append(waiting)
                continue
            sock, when_closed = waiting
            try:
                size = sock.recv_into(buffer, 0, DISCARD)
            except BlockingIOError:
                credit -= 1
                still_open.append(waiting)
                continue
            except OSError:
                size = 0
            if size:
                self._watched.add(sock, when_closed, size, age)
            else:
                credit += 1
                close(sock, when_closed)
        return still_open

    def _close(self, sock: socket.SocketType, when_closed: WhenClosed) -> None:
        self.count -= 1
        sock.close()
        if when_closed is not None:
            try:
                when_closed()
            except Exception:  # noqa: BLE001 - the other sockets still have to be closed
                _log.failure("A socket was closed, but its close callback raised")
