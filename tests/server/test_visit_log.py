"""The log of visits, with a clock that the test turns."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock

from greetsvc.ledger import Ledger
from greetsvc.server.visit_log import READABLE, VisitLog
from greetsvc.visit import Address

PEER = Address("127.0.0.1", 9599)


def _started(readable: int = READABLE) -> tuple[Ledger, Clock, VisitLog]:
    ledger, clock = Ledger(), Clock()
    log = VisitLog(ledger, clock, readable=readable)
    log.start()
    return ledger, clock, log


def _visits(ledger: Ledger, count: int, transport: str = "tcp", peer: Any = PEER) -> None:
    for _ in range(count):
        ledger.greet(transport, peer)


def test_a_visit_is_logged_with_its_address_as_the_tutorial_does(log_lines: list[str]) -> None:
    ledger, _, _ = _started()
    _visits(ledger, 1)
    assert log_lines == ["Got a connection from ('127.0.0.1', 9599)"]


def test_a_unix_peer_is_logged_with_its_path_or_as_unnamed(log_lines: list[str]) -> None:
    ledger, _, _ = _started()
    ledger.greet("unix", Address("/run/peer.sock", 0))
    ledger.greet("unix", Address("", 0))
    assert log_lines == ["Got a connection from /run/peer.sock", "Got a connection from an unnamed UNIX socket"]


def test_mapped_ipv4_is_logged_as_ipv4(log_lines: list[str]) -> None:
    ledger, _, _ = _started()
    ledger.greet("udp", ("::ffff:192.0.2.1", 5, 0, 0))
    assert log_lines == ["Got a connection from ('192.0.2.1', 5)"]


def test_twenty_visits_per_second_are_logged_and_the_others_summed_up(log_lines: list[str]) -> None:
    ledger, clock, _ = _started()
    _visits(ledger, 25)
    _visits(ledger, 3, "udp")
    assert len(log_lines) == READABLE == 20
    clock.advance(1)
    assert log_lines[20:] == ["Got 8 more connections in a second: tcp 5, udp 3"]


def test_each_second_logs_twenty_visits_again(log_lines: list[str]) -> None:
    ledger, clock, _ = _started()
    for _ in range(3):
        _visits(ledger, 21)
        clock.advance(1)
    assert len(log_lines) == 3 * 21
    assert log_lines[20::21] == ["Got 1 more connection in a second: tcp 1"] * 3


def test_no_visit_is_logged_twice_and_no_timer_runs_without_visits(log_lines: list[str]) -> None:
    ledger, clock, _ = _started()
    _visits(ledger, 22)
    clock.pump([1] * 5)
    assert len(log_lines) == 21
    assert not clock.getDelayedCalls()
    _visits(ledger, 1)
    assert len(log_lines) == 22


def test_with_a_summary_only_no_visit_is_logged_alone(log_lines: list[str]) -> None:
    ledger, clock, _ = _started(readable=0)
    _visits(ledger, 3)
    assert not log_lines
    clock.advance(1)
    _visits(ledger, 2, "unix", Address("", 0))
    clock.advance(1)
    assert log_lines == [
        "Got 3 connections in a second: tcp 3",
        "Got 2 connections in a second: unix 2",
    ]
    clock.pump([1, 1, 1])
    assert not clock.getDelayedCalls()


def test_stop_writes_the_last_sum_and_leaves_no_timer(log_lines: list[str]) -> None:
    ledger, clock, log = _started()
    _visits(ledger, 23)
    log.stop()
    assert log_lines[-1] == "Got 3 more connections in a second: tcp 3"
    assert not clock.getDelayedCalls()
    _visits(ledger, 1)
    assert len(log_lines) == 21
    log.stop()


def test_stop_without_visits_logs_nothing(log_lines: list[str]) -> None:
    _, clock, log = _started()
    log.stop()
    assert not log_lines
    assert not clock.getDelayedCalls()


def test_visits_before_the_start_are_not_reported(log_lines: list[str]) -> None:
    ledger, clock = Ledger(), Clock()
    _visits(ledger, 50)
    log = VisitLog(ledger, clock, readable=0)
    log.start()
    _visits(ledger, 1)
    clock.advance(1)
    assert log_lines == ["Got 1 connection in a second: tcp 1"]
    log.stop()


def test_visits_that_are_only_summed_up_cost_no_call() -> None:
    ledger, clock, log = _started(readable=2)
    _visits(ledger, 5)
    assert not ledger.watchers
    clock.advance(1)
    assert len(ledger.watchers) == 1
    log.stop()
    assert not ledger.watchers


def test_refusals_are_summed_up_once_a_second_also_without_visits(log_lines: list[str]) -> None:
    ledger, clock, log = _started()
    for _ in range(3):
        ledger.refuse("max-connections")
    ledger.refuse("loop")
    assert not log_lines
    clock.advance(1)
    assert log_lines == ["Refused 4 in a second: loop 1, max-connections 3"]
    clock.advance(1)
    assert not clock.getDelayedCalls()
    ledger.refuse("loop")
    log.stop()
    assert log_lines[1:] == ["Refused 1 in a second: loop 1"]
    ledger.refuse("loop")
    assert not clock.getDelayedCalls()


def test_many_refusals_set_one_timer(log_lines: list[str]) -> None:
    ledger, clock, _ = _started(readable=0)
    for _ in range(1000):
        ledger.refuse("port")
    assert len(clock.getDelayedCalls()) == 1
    _visits(ledger, 2)
    clock.advance(1)
    assert log_lines == ["Got 2 connections in a second: tcp 2", "Refused 1000 in a second: port 1000"]
    clock.advance(1)


def test_a_refusal_is_logged_with_its_peer_reason_and_transport(log_lines: list[str]) -> None:
    ledger, clock, log = _started()
    ledger.refuse_peer("max-connections", IPv4Address("TCP", "192.0.2.1", 5), "tcp")
    ledger.refuse_peer("proxy-untrusted", IPv6Address("TCP", "::ffff:192.0.2.2", 6), "proxy:tls")
    ledger.refuse_peer("loop", ("2001:db8::1", 7, 0, 0), "udp")
    ledger.refuse_peer("loop", "/run/own.sock", "unixgram")
    ledger.refuse_peer("no-address", b"", "unixgram")
    ledger.refuse_peer("greeter", UNIXAddress(None), "unix")
    expected = [
        "Refused ('192.0.2.1', 5): max-connections (tcp)",
        "Refused ('192.0.2.2', 6): proxy-untrusted (proxy:tls)",
        "Refused ('2001:db8::1', 7): loop (udp)",
        "Refused /run/own.sock: loop (unixgram)",
        "Refused an unnamed UNIX socket: no-address (unixgram)",
        "Refused an unnamed UNIX socket: greeter (unix)",
    ]
    assert log_lines == expected
    clock.advance(1)
    log.stop()
    assert log_lines == expected, "none is told twice"


def test_five_refusals_a_second_for_each_reason_are_logged_and_the_others_summed_up(log_lines: list[str]) -> None:
    ledger, clock, log = _started()
    for _ in range(2):
        log_lines.clear()
        for number in range(9):
            ledger.refuse_peer("max-per-source", ("192.0.2.1", number), "udp")
        ledger.refuse_peer("loop", ("192.0.2.2", 1), "udp")
        assert len(log_lines) == 6
        for number in range(1000):
            ledger.refuse_peer("loop", ("192.0.2.2", number), "udp")
        assert len(log_lines) == 10
        assert ledger.when_peer_refused is None, "the others cost no call"
        clock.advance(1)
        assert log_lines[10:] == ["Refused 1000 more in a second: loop 996, max-per-source 4"]
    log.stop()


def test_with_a_summary_only_no_refusal_is_logged_alone(log_lines: list[str]) -> None:
    ledger, clock, log = _started(readable=0)
    ledger.refuse_peer("loop", ("192.0.2.2", 1), "udp")
    clock.advance(1)
    assert log_lines == ["Refused 1 in a second: loop 1"]
    log.stop()
