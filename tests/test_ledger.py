"""What happened, in plain integers."""

from __future__ import annotations

from typing import Any

from greetsvc.ledger import LATEST, Entry, Ledger
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 40000)


def test_visits_are_numbered_from_one_and_counted_by_transport() -> None:
    ledger = Ledger()
    for number, transport in enumerate(("tcp", "udp", "tcp"), 1):
        ledger.greet(transport, PEER)
        assert ledger.visits == ledger.latest[-1].number == number
    assert ledger.greeted == {"tcp": 2, "udp": 1}


def test_the_latest_visits_are_kept_and_no_more() -> None:
    ledger = Ledger()
    for port in range(LATEST + 10):
        ledger.greet("tcp", Address("192.0.2.1", port))
    assert len(ledger.latest) == LATEST
    assert ledger.latest[0] == Entry(11, "tcp", Address("192.0.2.1", 10))
    assert ledger.latest[-1].number == LATEST + 10


def test_those_counted_together_are_visits_like_the_others() -> None:
    ledger = Ledger()
    ledger.greet("tcp", PEER)
    ledger.greet_all("udp", [("192.0.2.1", 1), ("192.0.2.1", 2)])
    assert [(entry.number, entry.peer.port) for entry in ledger.latest] == [(1, 40000), (2, 1), (3, 2)]
    ledger.greet_all("udp", [("192.0.2.1", port) for port in range(LATEST - 1)])
    assert [(entry.number, entry.peer.port) for entry in ledger.latest[:2]] == [(3, 2), (4, 0)]
    assert len(ledger.latest) == LATEST


def test_a_peer_as_the_socket_names_it_is_shown_as_an_address() -> None:
    ledger = Ledger()
    ledger.greet("udp", ("::ffff:192.0.2.1", 7000, 0, 0))
    assert ledger.latest == [Entry(1, "udp", Address("192.0.2.1", 7000))]


def test_watchers_are_called_after_the_visit_was_counted() -> None:
    ledger = Ledger()
    seen: list[tuple[int, str, Address]] = []
    ledger.watchers.append(lambda transport, peer: seen.append((ledger.visits, transport, peer)))
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


def test_a_watcher_that_fails_harms_neither_the_visit_nor_the_other_watchers(logged_errors: Any) -> None:
    ledger = Ledger()
    seen: list[str] = []
    ledger.watchers += [lambda *_: 1 / 0, lambda transport, _peer: seen.append(transport)]
    ledger.greet("tcp", PEER)
    ledger.greet_all("udp", [("192.0.2.1", 1)] * 2)
    assert seen == ["tcp", "udp", "udp"]
    assert ledger.visits == 3
    assert len(logged_errors.flush(ZeroDivisionError)) == 3


def test_refusals_and_ends_are_counted_by_reason_and_are_no_visits() -> None:
    ledger = Ledger()
    for reason in ("loop", "loop", "port"):
        ledger.refuse(reason)
    ledger.end("deadline")
    assert ledger.refused == {"loop": 2, "port": 1}
    assert ledger.ended == {"deadline": 1}
    assert ledger.visits == 0
