"""A load run: many visits at once on one core, counted and timed, on an epoll of its own inside the reactor.

The reactor sees one descriptor. When that is ready a turn handles what there is for at most 10 ms, and then the
reactor has its own turn for signals, timers and whatever else the program does.
"""

from __future__ import annotations

import errno
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.load.connections import AGAIN, Asker, End, Visit, failed
from greetsvc.client.load.metrics import Account, Second
from greetsvc.client.load.pacing import LATE
from greetsvc.client.load.polling import Poller, nap

__all__ = ["EachSecond", "Judge", "Load", "LoadReactor"]

Judge = Callable[[bytes, float], bool]
"""Whether a greeting with these bytes, that took so many seconds, is as it should be."""

EachSecond = Callable[[int, Second, int], None]
"""Told when a second of the run is over: its number from 1, what happened in it, how many are in flight."""

_BATCH = 64
"""Events taken at once. They share one reading of the clock: all were ready then, however long their turn takes."""

_TURN = 0.01
_NAP = 0.002
"""The reactor's timers know milliseconds; the last two before an intended time are waited for here."""

_REST = 0.05
"""How long one of N rests after a failure in a closed loop: it would ask a port that refuses without end."""

_AGAIN = 0.001
_TICK = 0.05


class LoadReactor(IReactorTime, IReactorFDSet):
    """What a load run needs of a reactor."""


@implementer(IReadDescriptor)
class Load:
    """One run. `account` says at any time what came of it so far."""

    def __init__(
        self,
        asker: Asker,
        poller: Poller,
        account: Account,
        *,
        duration: float,
        slots: int,
        timeout: float,
        reactor: LoadReactor,
        judge: Judge | None = None,
        each_second: EachSecond | None = None,
        now: Callable[[], float] = time.monotonic,
        start: float | None = None,
    ) -> None:
        self.account = account
        self._asker = asker
        self._poller = poller
        self._slots = slots
        self._timeout = timeout
        self._reactor = reactor
        self._judge = judge
        self._each_second = each_second
        self._now = now
        self._start = now() if start is None else start
        self._until = self._start + duration
        self._paced = account.paced
        self._open: dict[int, Visit] = {}
        self._again: deque[tuple[float, Visit]] = deque()
        self._resting: deque[float] = deque()
        self._cpu = time.thread_time()
        self._beginning = True
        self._timer: IDelayedCall | None = None
        self._full = -math.inf
        self._done: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Until the time is over and the last visit has ended. Cancelling stops it at once; the account stands."""
        self._reactor.addReader(self)
        self._timer = self._reactor.callLater(0, self._turn)
        try:
            await self._done
        finally:
            self._stop()

    def _stop(self) -> None:
        self._reactor.removeReader(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._begin_no_more(self._now())
        self.account.leave()
        for visit in self._open.values():
            self._asker.over(visit, greeted=False)
        self._open.clear()
        self._asker.close()
        self._poller.close()
        if attrs.astuple(self.account.seconds[-1]) != (0, 0, 0):
            self._tell(0)

    def fileno(self) -> int:
        """The descriptor that stands for all the others."""
        return self._poller.fileno()

    def logPrefix(self) -> str:
        """Who it is, in the reactor's words."""
        return "greet"

    def connectionLost(self, reason: Failure) -> None:
        """A descriptor that only watches others is never lost."""

    def doRead(self) -> None:
        """Some socket is ready."""
        self._turn()

    def _turn(self) -> None:
        """One turn; what nobody foresaw, and what `each_second` raises, ends the run."""
        try:
            self._work()
        except Exception:  # noqa: BLE001 - it is raised from `run`
            self._done.errback()
            return
        if self._beginning or self._open:
            self._arm(self._now())
        else:
            self._done.callback(None)

    def _work(self) -> None:
        """Handle what is ready, begin what is due, and wait here for what is about to be."""
        now = self._now()
        leave = now + _TURN
        self._begin_due(now)
        while now < leave:
            events = self._poller.poll(0, _BATCH)
            now = self._now()
            if events:
                self._handle(events, now)
            else:
                wait = self._due() - now
                if wait > _NAP:
                    break
                if wait > 0:
                    nap(self._poller, min(wait, leave - now))
                now = self._now()
            self._begin_due(now)
        self._look_around(now)

    def _handle(self, events: list[tuple[int, int]], now: float) -> None:
        asker, in_flight = self._asker, self._open
        ended = []
        for fd, mask in events:
            visit = in_flight.get(fd)
            if visit is None:
                asker.stray(fd)
            elif (end := asker.ready(visit, mask)) is not None:
                ended.append((visit, end))
        self._finish(ended, now)

    def _due(self) -> float:
        """When something is to be done that no socket tells of."""
        due = self._again[0][0] if self._again else math.inf
        if self._beginning:
            due = min(due, self._end())
        if self._beginning and len(self._open) < self._slots:
            if self._paced is not None:
                due = min(due, self._paced.next)
            elif self._resting:
                due = min(due, self._resting[0])
        return due

    def _end(self) -> float:
        """When visits begin no more; the last ones of a schedule may be as late as the others."""
        return self._until if self._paced is None or self._paced.next == math.inf else self._until + LATE

    def _begin_due(self, now: float) -> None:
        while self._again and self._again[0][0] <= now:
            visit = self._again.popleft()[1]
            if self._open.get(visit.fd) is visit:
                self._ask(visit)
        if now >= self._end() and (self.account.sent or self._paced is not None):  # the first begin however late
            self._begin_no_more(now)
        if not self._beginning:
            return
        room = self._slots - len(self._open)
        if self._paced is None:
            while self._resting and self._resting[0] <= now:
                self._resting.popleft()
            room -= len(self._resting)
            self.account.begin(room)
            for _ in range(room):
                self._begin(self._now())
            return
        if room <= 0:
            self._full = now
        while self._paced.next <= now and len(self._open) < self._slots:
            self.account.begin()
            self._begin(self._paced.take(now, waited=self._paced.next <= self._full))

    def _begin(self, intended: float) -> None:
        try:
            visit = self._asker.open()
        except OSError as error:
            self._lose(failed("connect", error.errno or errno.EIO), intended, self._now())
            return
        visit.intended = intended
        visit.began = intended if self._paced is None else self._now()
        self._open[visit.fd] = visit
        self._ask(visit)

    def _ask(self, visit: Visit) -> None:
        end = self._asker.ask(visit)
        if end is AGAIN:
            self._again.append((self._now() + _AGAIN, visit))
        elif end is not None:
            self._finish([(visit, end)], self._now())

    def _finish(self, ended: Iterable[tuple[Visit, End]], now: float) -> None:
        """Let go of visits that are over, and count them: together, as most have nothing of their own to tell."""
        greeted = []
        for visit, end in ended:
            del self._open[visit.fd]
            if end.greeted:
                greeted.append(visit)
                if end.phase is not None:
                    self.account.remark(end.phase, end.errno, end.words)
            else:
                self._lose(end, visit.intended, now)
            self._asker.over(visit, greeted=end.greeted)
        took = [now - visit.intended for visit in greeted]
        judge = self._judge
        flawed = (
            sum(not judge(visit.data, seconds) for visit, seconds in zip(greeted, took, strict=True)) if judge else 0
        )
        themselves = took if self._paced is None else [now - visit.began for visit in greeted]
        self.account.greet(took, themselves, flawed=flawed)

    def _lose(self, end: End, intended: float, now: float) -> None:
        assert end.phase is not None
        self.account.lose(end.phase, end.errno, end.words, intended - self._start)
        if self._paced is None:
            self._resting.append(now + _REST)

    def _begin_no_more(self, now: float) -> None:
        if self._beginning:
            self._beginning = False
            self.account.elapsed = now - self._start
            self.account.greeted_meanwhile = self.account.greeted
            self.account.cpu = time.thread_time() - self._cpu

    def _look_around(self, now: float) -> None:
        """Give up what takes too long, and close the second that is over."""
        late = list(takewhile(lambda visit: visit.began + self._timeout <= now, self._open.values()))
        self._finish([(visit, self._asker.late(visit)) for visit in late], now)
        while now >= self._start + len(self.account.seconds):
            self._tell(len(self._open))
            self.account.seconds.append(Second())

    def _tell(self, in_flight: int) -> None:
        if self._each_second is not None:
            self._each_second(len(self.account.seconds), self.account.seconds[-1], in_flight)

    def _arm(self, now: float) -> None:
        """Have the reactor come back in time; its timers wake up to 1 ms late."""
        wait = max(0.0, min(self._due() - now - _NAP / 2, _TICK))
        assert self._timer is not None
        if self._timer.active():
            self._timer.reset(wait)
        else:
            self._timer = self._reactor.callLater(wait, self._turn)
