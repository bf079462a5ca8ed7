"""The latest visits: noted at a bounded cost, and shown without addresses where strangers see them."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from greetsvc.admin.visits import CALLS, SeenVisit, network_of
from greetsvc.admin.watch import KEPT, NOTED, PERIOD, Watch
from greetsvc.ledger import DATAGRAMS, Ledger
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 40000)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("/run/visitor.sock", ""),
        ("", ""),
    ],
)
def test_strangers_see_the_network_of_a_peer(host: str, network: str) -> None:
    assert network_of(host) == network
    assert SeenVisit(1.0, "tcp", host, 40000, 0.1).without_address() == SeenVisit(1.0, "tcp", network, 0, 0.1)


def test_each_transport_has_its_calls() -> None:
    assert set(CALLS) == {"tcp", "tls", "unix", *DATAGRAMS}
    for transport, calls in CALLS.items():
        assert (calls[-1].name == "close()") == (transport not in DATAGRAMS)


def test_a_few_visits_are_noted_and_all_others_cost_nothing() -> None:
    clock, ledger = Clock(), Ledger()
    watch = Watch(ledger, clock)
    watch.start()
    for _ in range(3):
        ledger.greet_all("tcp", [PEER] * 100)
        assert not ledger.watchers
        clock.advance(PERIOD)
    assert len(watch.visits) == 3 * NOTED <= KEPT
    assert ledger.greeted == {"tcp": 300}
    watch.stop()
    assert not ledger.watchers
    assert not clock.getDelayedCalls()


def test_the_delay_of_the_event_loop_is_how_late_a_timer_is() -> None:
    clock = Clock()
    watch = Watch(Ledger(), clock)
    watch.start()
    clock.advance(PERIOD)
    clock.advance(PERIOD + 0.3)
    assert watch.loop_delay.total == pytest.approx(0.3)
    assert sum(watch.loop_delay.counts) == 2
    watch.stop()
