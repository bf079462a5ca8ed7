"""Server-sent events, with connections that are full, come back, or never read."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.task import Clock

from greetsvc.admin.events import MAX_WATCHERS, PATIENCE, PERIOD, RATE, Events, event


@define(eq=False)
class Watching:
    """A connection: what was written to it, and who is told when it is full."""

    written: list[bytes] = field(factory=list)
    producer: Any = None
    aborted: bool = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def abort(self) -> None:
        self.aborted = True


@define
class Told:
    """Events of a service, on a clock of the test."""

    clock: Clock = field(factory=Clock)
    made: int = 0
    faulty: bool = False
    events: Events = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.events = Events(self.news, self.clock)

    def news(self) -> bytes:
        if self.faulty:
            raise ValueError
        self.made += 1
        return b"%d" % self.made

    def watching(self, number: int = 1) -> list[Watching]:
        connections = [Watching() for _ in range(number)]
        for each in connections:
            self.events.add(each)
        return connections


@pytest.mark.parametrize("watchers", [1, 60, 200])
@pytest.mark.parametrize("begun", [0.0, 0.1, 0.25, 0.3, 1000.49])
def test_each_message_has_the_same_number_of_the_reports_that_workers_send(watchers: int, begun: float) -> None:
    """These come when a period of the clock begins: a message near that moment would miss one now and then."""
    told = Told()
    told.clock.advance(begun)
    told.watching(watchers)
    made, times = 0, []
    for _ in range(100_000):
        told.clock.advance(0.001)
        if told.made != made:
            made = told.made
            times.append(told.clock.seconds())
        if made == 5:
            break
    assert all(0.2 < when % PERIOD < 0.3 for when in times)
    gaps = [round((late - early) / PERIOD) for early, late in pairwise(times)]
    assert len(set(gaps)) == 1
    assert gaps[0] == max(1, math.ceil(watchers / RATE / PERIOD))


def test_all_watchers_get_the_same_message() -> None:
    told = Told()
    watchers = told.watching(3)
    told.clock.pump([PERIOD, PERIOD])
    assert [each.written for each in watchers] == [[b"1", b"2"]] * 3


def test_nothing_is_made_while_nobody_watches() -> None:
    told = Told()
    (watcher,) = told.watching()
    told.events.discard(watcher)
    assert not told.clock.getDelayedCalls()
    told.clock.advance(10 * PERIOD)
    assert not told.made


def test_many_watchers_get_fewer_messages() -> None:
    """So the cost of all watchers together is bounded."""
    told = Told()
    watchers = told.watching(200)
    for _ in range(100):
        told.clock.advance(0.1)
    assert sum(len(each.written) for each in watchers) <= 10 * RATE


def test_there_is_a_most_of_watchers() -> None:
    told = Told()
    told.watching(MAX_WATCHERS - 1)
    assert not told.events.full
    told.watching()
    assert told.events.full


def test_a_message_that_cannot_be_made_is_logged_and_the_next_one_comes(logged_errors: Any) -> None:
    told = Told()
    (watcher,) = told.watching()
    told.faulty = True
    told.clock.advance(PERIOD)
    told.faulty = False
    told.clock.advance(PERIOD)
    assert watcher.written == [b"1"]
    assert len(logged_errors.flush(ValueError)) == 1


def test_one_that_is_full_misses_messages_and_gets_later_ones() -> None:
    told = Told()
    full, other = told.watching(2)
    full.producer.pauseProducing()
    told.clock.pump([PERIOD, PERIOD])
    assert full.written == []
    full.producer.resumeProducing()
    told.clock.advance(PERIOD)
    assert full.written == [b"3"]
    assert other.written == [b"1", b"2", b"3"]


def test_one_that_does_not_read_at_all_is_dropped() -> None:
    told = Told()
    full, other = told.watching(2)
    full.producer.pauseProducing()
    while told.clock.seconds() < PATIENCE + 2 * PERIOD:
        told.clock.advance(PERIOD)
    assert full.aborted
    assert not other.aborted
    assert len(told.events) == 1


def test_a_stop_ends_all_and_leaves_no_timer() -> None:
    told = Told()
    watchers = told.watching(2)
    told.events.stop()
    assert all(each.aborted for each in watchers)
    assert not told.clock.getDelayedCalls()


@pytest.mark.parametrize("text", ["a\nevent: start\ndata: x", "a\r\n\r\nb", "\u2028", "</script>", "ü"])
def test_what_a_visitor_sent_cannot_end_an_event(text: str) -> None:
    name, data, *rest = event("state", {"host": text}).split(b"\n")
    assert name == b"event: state"
    assert json.loads(data.removeprefix(b"data: ")) == {"host": text}
    assert rest == [b"", b""]
    assert b"\r" not in data
