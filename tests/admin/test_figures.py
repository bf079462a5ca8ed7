"""The figures: taken, added up, and sent between processes."""

from __future__ import annotations

import functools
import itertools
import operator

import pytest

from greetsvc.admin.figures import Descriptors, Figures, Histogram, take
from greetsvc.ledger import BOUNDS, Durations, Ledger
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 40000)


def counted() -> Ledger:
    """A ledger in which everything that it tells apart has happened."""
    ledger = Ledger()
    ledger.durations = Durations()
    for transport in ("tcp", "tcp", "udp"):
        ledger.greet(transport, PEER)
        ledger.durations.add(0.0001)
    ledger.refuse_peer("max-connections", PEER, "tcp")
    ledger.refuse("tls-alert")
    for _ in range(2):
        ledger.refuse_peer("loop", PEER, "udp")
    ledger.refuse("greeter")
    ledger.refuse_datagram("greeter")
    ledger.answered["tcp"] += 5
    ledger.ended["too-long"] += 1
    return ledger


def test_what_was_not_greeted_is_told_apart() -> None:
    """A greeter may fail for a connection and for a datagram."""
    figures = take(counted())
    assert figures.greeted == {"tcp": 2, "udp": 1}
    assert figures.refused == {"max-connections": 1, "greeter": 1}
    assert figures.unanswered == {"loop": 2, "greeter": 1}
    assert figures.tls_failed == {"tls-alert": 1}
    assert figures.answered == {"tcp": 5}
    assert figures.ended_for == {"too-long": 1}


def test_the_process_is_looked_at() -> None:
    figures = take(Ledger())
    assert 0 < figures.descriptors.used < figures.descriptors.allowed
    assert figures.cpu_seconds > 0
    assert set(figures.build) == {"version", "python", "twisted"}


def test_figures_of_workers_are_added_up() -> None:
    one = take(counted(), open=2, certificates={"a": 20.0, "b": 5.0}, reloads={"ok": 3}, started=10.0)
    other = take(
        counted(), open=3, certificates={"a": 10.0}, reloads={"ok": 3, "failed": 1}, reload_ok=False, started=5.0
    )
    both = one + other
    assert both.greeted == {"tcp": 4, "udp": 2}
    assert both.greeting_seconds.counts == tuple(2 * count for count in one.greeting_seconds.counts)
    assert both.open == 5
    assert both.workers == 2
    assert both.certificates == {"a": 10.0, "b": 5.0}
    assert both.reloads == {"ok": 3, "failed": 1}
    assert not both.reload_ok
    assert both.started == 5
    assert both.build == one.build


def test_descriptors_are_those_of_the_process_that_is_nearest_to_its_limit() -> None:
    """A sum would hide one that is full beside one that is idle."""
    full, idle, none = (Figures(descriptors=Descriptors(*both)) for both in ((99, 100), (200, 1000), (0, 0)))
    for several in itertools.permutations((full, idle, none)):
        assert functools.reduce(operator.add, several).descriptors == Descriptors(99, 100)


def test_a_worker_that_ended_leaves_its_counts() -> None:
    worker = take(counted(), open=2, lingering=1, open_allowed=9, certificates={"a": 20.0})
    left = worker.ended()
    assert left.greeted == worker.greeted
    assert left.greeting_seconds == worker.greeting_seconds
    assert left.cpu_seconds == worker.cpu_seconds
    assert (left.open, left.lingering, left.open_allowed, left.workers) == (0, 0, 0, 0)
    assert (left.descriptors, left.memory, left.certificates) == (Descriptors(), 0, {})


def test_figures_survive_the_way_between_processes() -> None:
    figures = take(counted(), open=2, certificates={"a": 20.0}, workers_restarted=1)
    assert Figures.from_json(figures.as_json()) == figures


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (BOUNDS[0], 0), (BOUNDS[0] * 1.01, 1), (BOUNDS[-1] * 2, len(BOUNDS))]
)
def test_a_duration_counts_in_the_first_bucket_that_holds_it(seconds: float, bucket: int) -> None:
    durations = Durations()
    durations.add(seconds, 3)
    assert Histogram.of(durations).counts[bucket] == 3
    assert durations.total == 3 * seconds
