"""The counters, and those who watch them."""

from __future__ import annotations

from typing import Any

import pytest

from greetsvc.ledger import Ledger
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 40000)


def watched(ledger: Ledger) -> list[tuple[int, str, Address]]:
    """The visits that a watcher of this ledger sees: number, transport, peer."""
    seen: list[tuple[int, str, Address]] = []
    ledger.watchers.append(lambda transport, peer: seen.append((ledger.visits, transport, peer)))
    return seen


def test_visits_are_numbered_from_one_and_counted_by_transport() -> None:
    ledger = Ledger()
    seen = watched(ledger)
    for number, transport in enumerate(("tcp", "udp", "tcp"), 1):
        ledger.greet(transport, PEER)
        assert ledger.visits == seen[-1][0] == number
    assert ledger.greeted == {"tcp": 2, "udp": 1}


@pytest.mark.parametrize("is_watched", [True, False])
def test_visits_counted_together_are_visits_like_the_others(is_watched: bool) -> None:
    ledger = Ledger()
    seen = watched(ledger) if is_watched else None
    ledger.greet("tcp", PEER)
    ledger.greet_all("udp", [("192.0.2.1", 1), ("192.0.2.1", 2)])
    assert ledger.greeted == {"tcp": 1, "udp": 2}
    if seen is not None:
        assert [(number, peer.port) for number, _, peer in seen] == [(1, 40000), (2, 1), (3, 2)]


def test_a_peer_as_the_socket_names_it_is_seen_as_an_address() -> None:
    ledger = Ledger()
    seen = watched(ledger)
    ledger.greet("udp", ("::ffff:192.0.2.1", 7000, 0, 0))
    assert seen == [(1, "udp", Address("192.0.2.1", 7000))]


def test_watchers_are_called_after_the_visit_was_counted() -> None:
    ledger = Ledger()
    seen = watched(ledger)
    ledger.greet("unix", Address("/x", 0))
    assert seen == [(1, "unix", Address("/x", 0))]


def test_a_watcher_may_leave_while_it_is_called() -> None:
    ledger = Ledger()
    seen: list[str] = []

    def once(transport: str, _peer: Address) -> None:
        seen.append(transport)
        ledger.watchers.remove(once)

    ledger.watchers += [once, lambda transport, _peer: seen.append(transport)]
    ledger.greet("tcp", PEER)
    ledger.greet("udp", PEER)
    assert seen == ["tcp", "tcp", "udp"]


def test_a_watcher_that_raises_stops_neither_the_count_nor_the_other_watchers(logged_errors: Any) -> None:
    ledger = Ledger()
    seen: list[str] = []
    ledger.watchers += [lambda *_: 1 / 0, lambda transport, _peer: seen.append(transport)]
    ledger.greet("tcp", PEER)
    ledger.greet_all("udp", [("192.0.2.1", 1)] * 2)
    assert seen == ["tcp", "udp", "udp"]
    assert ledger.visits == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 3


def test_refusals_are_counted_by_reason_and_are_no_visits() -> None:
    ledger = Ledger()
    refused: list[int] = []
    ledger.when_refused = lambda: refused.append(ledger.refused.total())
    for reason in ("loop", "loop", "port"):
        ledger.refuse(reason)
    assert ledger.refused == {"loop": 2, "port": 1}
    assert refused == [1, 2, 3]
    assert ledger.visits == 0


def test_a_refusal_of_a_known_peer_is_counted_once_and_told_with_the_peer() -> None:
    ledger = Ledger()
    told: list[object] = []
    ledger.when_refused = lambda: told.append(ledger.refused.total())
    ledger.when_peer_refused = lambda *peer: told.append(peer)
    ledger.refuse_peer("loop", ("192.0.2.1", 5), "udp")
    assert ledger.refused == {"loop": 1}
    assert told == [1, ("loop", ("192.0.2.1", 5), "udp")]
