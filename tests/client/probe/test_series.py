"""A series of probes, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from greetsvc import GreetFailed, Greeting
from greetsvc.client.probe.series import repeat, result_of
from greetsvc.client.result import Seconds
from greetsvc.client.target import parse
from greetsvc.visit import Address

GREETING = Greeting(parse("h"), b"x", "x", Seconds(), Address("h", 1))


class Runs:
    """Probes that take as long as they are told."""

    def __init__(self, takes: Callable[[int], float], count: int, interval: float) -> None:
        self.clock = Clock()
        self.starts: list[float] = []
        self.results: list[Greeting | GreetFailed] = []
        self._takes = takes
        self.done = Deferred.fromCoroutine(
            self._run(count=count, interval=interval, clock=self.clock, now=self.clock.seconds)
        )

    async def _run(self, **pace: Any) -> None:
        async for result in repeat(lambda: result_of(self._probe()), **pace):
            self.results.append(result)

    async def _probe(self) -> Greeting:
        self.starts.append(round(self.clock.seconds(), 6))
        waited: Deferred[None] = Deferred()
        self.clock.callLater(self._takes(len(self.starts)), waited.callback, None)
        await waited
        if len(self.starts) == 2:
            raise GreetFailed(1, "second")
        return GREETING

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.clock.advance(0.001)


def test_starts_are_the_interval_apart_however_long_a_probe_takes() -> None:
    runs = Runs(lambda number: 0.3 if number % 2 else 0.1, count=5, interval=0.5)
    runs.advance(3)
    assert runs.starts == pytest.approx([0, 0.5, 1.0, 1.5, 2.0], abs=0.005)
    assert runs.done.called


def test_a_slow_probe_delays_the_next_and_nothing_is_caught_up_in_a_burst() -> None:
    runs = Runs(lambda number: 1.25 if number == 1 else 0.1, count=4, interval=0.5)
    runs.advance(4)
    assert runs.starts == pytest.approx([0, 1.25, 1.75, 2.25], abs=0.005)


def test_each_result_is_yielded_and_a_failure_is_not_raised() -> None:
    runs = Runs(lambda _: 0.01, count=3, interval=0)
    runs.advance(1)
    assert len(runs.results) == 3
    assert isinstance(runs.results[1], GreetFailed)
    assert runs.results[2] is GREETING


def test_without_a_count_it_goes_on_until_cancelled() -> None:
    runs = Runs(lambda _: 0.01, count=0, interval=0.1)
    runs.advance(5)
    assert len(runs.starts) == pytest.approx(50, abs=1)
    ended: list[object] = []
    runs.done.addErrback(lambda failure: ended.append(failure.trap(CancelledError)))
    runs.done.cancel()
    assert ended == [CancelledError]
    assert not [call for call in runs.clock.getDelayedCalls() if call.active()][1:]
