# mypy: allow-untyped-calls
# (twisted.internet.testing has few types.)
"""The factory of the daemon: one greeting for all, without protocols, with the same limits and counts."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection

from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.net.stream.batch import MAX_CONSTANT, IConstantAnswer
from greetsvc.server import GreetingFactory
from greetsvc.server.admission import Admission
from greetsvc.server.fast_stream import FastGreetingFactory
from greetsvc.visit import Address


def _factory(template: str = "hello", **options: Any) -> FastGreetingFactory:
    return FastGreetingFactory(TextGreeter(template), reactor=Clock(), **options)


def _visited(factory: FastGreetingFactory) -> FastGreetingFactory:
    """The factory after a visit, for which a protocol was built."""
    protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 40000))
    assert protocol is not None
    transport: Any = StringTransportWithDisconnection()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return factory


def test_a_constant_greeting_is_the_answer_once_it_was_rendered() -> None:
    factory = _factory()
    assert factory.constant_answer() is None
    assert _visited(factory).constant_answer() == b"hello"


@pytest.mark.parametrize(
    ("template", "constant"),
    [("{peer_host}", False), ("x" * MAX_CONSTANT, True), ("x" * (MAX_CONSTANT + 1), False)],
    ids=["its own for each", "short", "long"],
)
def test_protocols_are_built_for_a_greeting_that_is_long_or_not_constant(template: str, constant: bool) -> None:
    assert (_visited(_factory(template)).constant_answer() is not None) is constant


def test_visitors_are_limited_and_counted_as_with_protocols() -> None:
    admission, ledger = Admission(max_connections=3, max_per_source=2), Ledger()
    factory = _factory(admission=admission, ledger=ledger)
    leaves = [factory.admit((host, 5)) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1", "127.0.0.1")]
    assert [leave is not None for leave in leaves] == [True, True, False, True, False]
    factory.answered([("192.0.2.1", 5), ("::ffff:192.0.2.2", 6, 0, 0), ("127.0.0.1", 7)])
    assert ledger.greeted == {"tcp": 3}
    assert ledger.refused == {}
    for leave in leaves:
        if leave is not None:
            leave()
    assert admission.open == 0
    assert admission.refusal(admission.source("192.0.2.1")) is None


def test_watchers_of_the_ledger_see_each_visit_of_a_batch(logged_errors: Any) -> None:
    factory = _factory()
    seen: list[tuple[str, int]] = []

    def watch(_: str, peer: Address) -> None:
        seen.append((peer.host, factory.ledger.visits))
        if len(seen) == 1:
            raise ZeroDivisionError

    factory.ledger.watchers.append(watch)
    factory.answered([("192.0.2.1", 5), ("::ffff:192.0.2.2", 6, 0, 0)])
    assert seen == [("192.0.2.1", 1), ("192.0.2.2", 2)]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_watchers_of_the_ledger_see_the_scope_of_a_link_local_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getnameinfo", lambda name, _: (f"{name[0]}%eth{name[3]}", str(name[1])))
    factory = _factory()
    seen: list[str] = []
    factory.ledger.watchers.append(lambda _, peer: seen.append(peer.host))
    factory.answered([("fe80::1", 5, 0, 2), ("2001:db8::1", 6, 0, 0)])
    assert seen == ["fe80::1%eth2", "2001:db8::1"]


def test_a_plain_factory_and_its_subclasses_have_no_constant_answer() -> None:
    assert IConstantAnswer.implementedBy(FastGreetingFactory)
    assert not IConstantAnswer.implementedBy(GreetingFactory)


def test_the_fast_factory_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="use GreetingFactory"):
        type("Own", (FastGreetingFactory,), {})
