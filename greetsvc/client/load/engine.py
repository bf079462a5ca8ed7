"""The engine of a load run: many probes at once on one core, on an epoll of its own inside the reactor.

The reactor sees one descriptor. When that is ready, a turn handles what there is for at most 10 ms; then the reactor
handles signals, timers and the rest of the program.
"""

from __future__ import annotations

import errno
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.load.connections import RETRY, Connection, LoadResult, Streams, failed
from greetsvc.client.load.datagrams import Datagrams
from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.pacing import LATE
from greetsvc.client.load.polling import Poller, short_sleep
from greetsvc.client.probe.datagram.history import DescriptorReactor

__all__ = ["EachSecond", "Engine", "GreetingCheck"]

GreetingCheck = Callable[[bytes, float], bool]
"""Whether a greeting with these bytes, that took this many seconds, is as expected."""

EachSecond = Callable[[int, SecondCounts, int], None]
"""Called when a second of the run is over: its number from 1, its counts, and the number of probes in flight."""

_BATCH = 64
"""Events taken at once. They share one reading of the clock: all were ready then, however long their turn takes."""

_TURN = 0.01
"""Seconds that a turn takes at most."""

_SHORT_WAIT = 0.002
"""The reactor's timers have milliseconds: the last two before an intended time are waited for in the turn."""

_REST = 0.05
"""How long one of N rests after a failure in a closed loop: otherwise a port that refuses is probed without pause."""

_RETRY_WAIT = 0.001
"""Seconds until a UNIX socket whose queue is full is tried again."""

_TICK = 0.05
"""Seconds from one look at the time-outs to the next."""


@implementer(IReadDescriptor)
class Engine:
    """Carries out one run. ``metrics`` has what was counted so far."""

    def __init__(
        self,
        transport: Streams | Datagrams,
        poller: Poller,
        metrics: LoadMetrics,
        *,
        duration: float,
        concurrency: int,
        timeout: float,
        reactor: DescriptorReactor,
        check: GreetingCheck | None = None,
        each_second: EachSecond | None = None,
        now: Callable[[], float] = time.monotonic,
        start: float | None = None,
    ) -> None:
        self.metrics = metrics
        self._transport = transport
        self._poller = poller
        self._concurrency = concurrency
        self._timeout = timeout
        self._reactor = reactor
        self._check = check
        self._each_second = each_second
        self._now = now
        self._start = now() if start is None else start
        self._until = self._start + duration
        self._schedule = metrics.schedule
        self._in_flight: dict[int, Connection] = {}
        self._retries: deque[tuple[float, Connection]] = deque()
        self._resting: deque[float] = deque()
        self._cpu = time.thread_time()
        self._starting = True
        self._timer: IDelayedCall | None = None
        self._full_at = -math.inf
        self._done: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Run until the time is over and the last probe has ended. Cancelling stops it at once; the metrics stay."""
        self._reactor.addReader(self)
        self._timer = self._reactor.callLater(0, self.doRead)
        try:
            await self._done
        finally:
            self._stop()

    def _stop(self) -> None:
        self._reactor.removeReader(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._stop_starting(self._now())
        self.metrics.stop()
        for connection in self._in_flight.values():
            self._transport.release(connection, greeted=False)
        self._in_flight.clear()
        self._transport.close()
        self._poller.close()
        if self.metrics.seconds[-1] != SecondCounts():
            self._report_second(0)

    def fileno(self) -> int:
        """The descriptor that stands for all the others."""
        return self._poller.fileno()

    def logPrefix(self) -> str:
        """The name in the reactor's log messages."""
        return "greet"

    def connectionLost(self, reason: Failure) -> None:
        """A poller is never lost."""

    def doRead(self) -> None:
        """One turn; an unexpected exception, or one from `each_second`, ends the run."""
        try:
            self._work()
        except Exception:  # noqa: BLE001 - it is raised from `run`
            self._done.errback()
            return
        if self._starting or self._in_flight:
            self._set_timer(self._now())
        else:
            self._done.callback(None)

    def _work(self) -> None:
        """Handle events, start what is due, and wait for what is due within `_SHORT_WAIT`."""
        now = self._now()
        leave = now + _TURN
        self._start_due(now)
        while now < leave:
            events = self._poller.poll(0, _BATCH)
            now = self._now()
            if events:
                self._handle(events, now)
            else:
                wait = self._due() - now
                if wait > _SHORT_WAIT:
                    break
                if wait > 0:
                    short_sleep(self._poller, min(wait, leave - now))
                now = self._now()
            self._start_due(now)
        if now > leave + _TURN:
            # Matching took long (`greetsvc.client.matching`). What came meanwhile came in time, and is not lost.
            while events := self._poller.poll(0, _BATCH):
                now = self._now()
                self._handle(events, now)
        self._check_times(now)

    def _handle(self, events: list[tuple[int, int]], now: float) -> None:
        transport, in_flight = self._transport, self._in_flight
        ended = []
        for fd, mask in events:
            connection = in_flight.get(fd)
            if connection is None:
                transport.idle_ready(fd)
            elif (result := transport.ready(connection, mask)) is not None:
                ended.append((connection, result))
        self._finish(ended, now)

    def _due(self) -> float:
        """When there is something to do that no socket reports."""
        due = self._retries[0][0] if self._retries else math.inf
        if self._starting:
            due = min(due, self._end())
        if self._starting and len(self._in_flight) < self._concurrency:
            if self._schedule is not None:
                due = min(due, self._schedule.next)
            elif self._resting:
                due = min(due, self._resting[0])
        return due

    def _end(self) -> float:
        """When no more probes start; the last ones of a schedule may be as late as the others."""
        schedule = self._schedule
        return self._until if schedule is None or schedule.next == math.inf else self._until + LATE

    def _start_due(self, now: float) -> None:
        while self._retries and self._retries[0][0] <= now:
            connection = self._retries.popleft()[1]
            if self._in_flight.get(connection.fd) is connection:
                self._start_connection(connection)
        # However short the run is, and however late its first turn comes, the first probes start.
        if now >= self._end() and (self.metrics.sent or self._schedule is not None):
            self._stop_starting(now)
        if not self._starting:
            return
        room = self._concurrency - len(self._in_flight)
        if self._schedule is None:
            while self._resting and self._resting[0] <= now:
                self._resting.popleft()
            room -= len(self._resting)
            self.metrics.add_started(room)
            for _ in range(room):
                self._start_probe(self._now())
            return
        if room <= 0:
            self._full_at = now
        while self._schedule.next <= now and len(self._in_flight) < self._concurrency:
            self.metrics.add_started()
            self._start_probe(self._schedule.start_next(now, waited=self._schedule.next <= self._full_at))

    def _start_probe(self, intended: float) -> None:
        try:
            connection = self._transport.open()
        except OSError as error:
            self._lose(failed("connect", error.errno or errno.EIO), intended, self._now())
            return
        connection.intended = intended
        connection.started = intended if self._schedule is None else self._now()
        self._in_flight[connection.fd] = connection
        self._start_connection(connection)

    def _start_connection(self, connection: Connection) -> None:
        result = self._transport.start(connection)
        if result is RETRY:
            self._retries.append((self._now() + _RETRY_WAIT, connection))
        elif result is not None:
            self._finish([(connection, result)], self._now())

    def _finish(self, ended: Iterable[tuple[Connection, LoadResult]], now: float) -> None:
        """Release connections whose probe is over, and count the greeted ones together, which is faster."""
        greeted, cut_short = [], []
        for connection, result in ended:
            del self._in_flight[connection.fd]
            if result.greeted:
                greeted.append(connection)
                if result.phase is not None:
                    if result.cut_short:
                        cut_short.append(connection)
                    self.metrics.add_failure(result.phase, result.errno, result.words)
            else:
                self._lose(result, connection.intended, now)
            self._transport.release(connection, greeted=result.greeted)
        took = [now - connection.intended for connection in greeted]
        flawed = len(cut_short)
        if check := self._check:
            pairs = zip(greeted, took, strict=True)
            flawed += sum(not check(probe.data, seconds) for probe, seconds in pairs if probe not in cut_short)
        uncorrected = took if self._schedule is None else [now - connection.started for connection in greeted]
        self.metrics.add_greeted(took, uncorrected, flawed=flawed)

    def _lose(self, result: LoadResult, intended: float, now: float) -> None:
        assert result.phase is not None
        self.metrics.add_lost(result.phase, result.errno, result.words, intended - self._start)
        if self._schedule is None:
            self._resting.append(now + _REST)

    def _stop_starting(self, now: float) -> None:
        if self._starting:
            self._starting = False
            self.metrics.elapsed = now - self._start
            self.metrics.greeted_meanwhile = self.metrics.greeted
            self.metrics.cpu = time.thread_time() - self._cpu

    def _check_times(self, now: float) -> None:
        """End the probes that have reached their time-out, and the second that is over."""
        # A dict keeps the order of insertion, so the oldest probes come first.
        late = list(takewhile(lambda connection: connection.started + self._timeout <= now, self._in_flight.values()))
        self._finish([(connection, self._transport.timed_out(connection)) for connection in late], now)
        while now >= self._start + len(self.metrics.seconds):
            self._report_second(len(self._in_flight))
            self.metrics.seconds.append(SecondCounts())

    def _report_second(self, in_flight: int) -> None:
        if self._each_second is not None:
            self._each_second(len(self.metrics.seconds), self.metrics.seconds[-1], in_flight)

    def _set_timer(self, now: float) -> None:
        """Have the reactor call `doRead` in time; its timers are up to 1 ms late."""
        wait = max(0.0, min(self._due() - now - _SHORT_WAIT / 2, _TICK))
        assert self._timer is not None
        if self._timer.active():
            self._timer.reset(wait)
        else:
            self._timer = self._reactor.callLater(wait, self.doRead)
