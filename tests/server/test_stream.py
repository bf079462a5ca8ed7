# mypy: allow-untyped-calls
# (twisted.internet.testing has few types.)
"""Greeting over streams, in memory and over Twisted's own transports."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.test.iosim import connect, makeFakeClient, makeFakeServer
from zope.interface import alsoProvides

from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.server import GreetingFactory, GreetingProtocol
from greetsvc.server.admission import Admission
from greetsvc.server.stream import address_of
from greetsvc.visit import Address, Visit

PEER = IPv4Address("TCP", "192.0.2.7", 40000)
LOCAL = IPv4Address("TCP", "192.0.2.1", 8088)


class Counting:
    """A greeter that counts how often it is asked, and remembers the visits."""

    def __init__(self, *needs: str) -> None:
        self.needs = frozenset(needs)
        self.visits: list[Visit] = []

    def greet(self, visit: Visit) -> bytes:
        self.visits.append(visit)
        return b"hello %d" % len(self.visits)


class Transport(StringTransportWithDisconnection):
    """Remembers that it was aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


def _connected(factory: GreetingFactory, peer: Any = PEER, transport: Transport | None = None) -> Transport:
    transport = transport or Transport(peerAddress=peer, hostAddress=LOCAL)
    protocol = factory.buildProtocol(peer)
    assert protocol is not None
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return transport


def _factory(greeter: Any = None, **options: Any) -> tuple[GreetingFactory, Clock]:
    clock: Any = Clock()
    return GreetingFactory(greeter or TextGreeter("Hi"), reactor=clock, **options), clock


def _watched(ledger: Ledger) -> list[Address]:
    """The peers of the visits that a watcher sees."""
    seen: list[Address] = []
    ledger.watchers.append(lambda _transport, peer: seen.append(peer))
    return seen


def test_who_connects_is_greeted_and_the_connection_closed() -> None:
    factory, _ = _factory()
    visits = _watched(factory.ledger)
    transport = _connected(factory)
    assert transport.value() == b"Hi"
    assert not transport.connected
    assert factory.ledger.greeted == {"tcp": 1}
    assert visits == [Address("192.0.2.7", 40000)]
    assert factory.admission.open == 0


def test_a_greeting_that_needs_nothing_is_rendered_once() -> None:
    greeter = Counting()
    factory, _ = _factory(greeter)
    assert [_connected(factory).value() for _ in range(3)] == [b"hello 1"] * 3
    assert len(greeter.visits) == 1


def test_a_greeting_that_needs_something_is_rendered_for_each_visit() -> None:
    greeter = Counting("peer", "number")
    factory, _ = _factory(greeter, transport="unix")
    assert [_connected(factory).value() for _ in range(2)] == [b"hello 1", b"hello 2"]
    first, second = greeter.visits
    assert (first.number, second.number) == (1, 2)
    assert (first.transport, first.peer, first.local) == ("unix", Address(*PEER_PLAIN), Address("192.0.2.1", 8088))
    assert first.when > 1_600_000_000
    assert (first.via, first.tls, first.path, first.size) == (None, None, None, None)


PEER_PLAIN = ("192.0.2.7", 40000)


def test_a_proxy_that_the_transport_names_is_on_the_visit() -> None:
    greeter = Counting("via", "tls", "peer")
    factory, _ = _factory(greeter)
    transport = Transport(peerAddress=PEER, hostAddress=LOCAL)
    transport.via = IPv4Address("TCP", "198.51.100.1", 5)  # type: ignore[attr-defined]
    _connected(factory, transport=transport)
    assert greeter.visits[0].via == Address("198.51.100.1", 5)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (IPv4Address("TCP", "192.0.2.1", 5), ("192.0.2.1", 5)),
        (IPv6Address("TCP", "2001:db8::1", 5), ("2001:db8::1", 5)),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 5), ("192.0.2.1", 5)),
        (UNIXAddress(b"/run/x"), ("/run/x", 0)),
        (UNIXAddress(b"/run/\xff\n"), (r"/run/\xff\n", 0)),
        (UNIXAddress(b"\0abstract"), ("@abstract", 0)),
        (UNIXAddress(None), ("", 0)),
        (None, ("", 0)),
    ],
)
def test_any_address_of_twisted_is_a_host_and_a_port(address: Any, expected: tuple[str, int]) -> None:
    assert address_of(address) == expected


def test_who_is_not_admitted_gets_no_protocol_and_is_counted() -> None:
    ledger, admission = Ledger(), Admission(most=2, per_source=1)
    factory, _ = _factory(ledger=ledger, admission=admission)
    admission.enter(admission.source("192.0.2.99"))
    assert factory.buildProtocol(PEER) is None
    admission.enter(())
    assert factory.buildProtocol(IPv4Address("TCP", "198.51.100.1", 5)) is None
    assert ledger.refused == {"max-per-source": 1, "max-connections": 1}


def test_a_connection_counts_until_it_is_lost() -> None:
    class Stays(GreetingProtocol):
        def greet(self) -> None:
            self.transport.write(b"stay")

    factory, _ = _factory(admission=Admission(per_source=1))
    factory.protocol = Stays
    transport = _connected(factory)
    assert factory.admission.open == 1
    assert factory.buildProtocol(PEER) is None
    transport.loseConnection()
    assert factory.admission.open == 0
    assert factory.buildProtocol(PEER) is not None
    factory.abort()


def test_on_a_transport_that_lingers_a_connection_counts_until_its_socket_is_closed() -> None:
    class Lingering(Transport):
        calls: list[Any]

        def call_when_closed(self, call: Any) -> None:
            self.calls = [call]

        def call_if_it_stays(self, call: Any) -> None:
            pass

    factory, _ = _factory()
    transport = Lingering(peerAddress=PEER, hostAddress=LOCAL)
    _connected(factory, transport=transport)
    assert factory.admission.open == 1
    transport.calls[0]()
    assert factory.admission.open == 0


class Silent(GreetingProtocol):
    """Connects, and says nothing."""

    def greet(self) -> None:
        pass


def test_a_connection_that_does_not_end_is_ended_at_its_deadline_and_counted() -> None:
    factory, clock = _factory(deadline=3)
    factory.protocol = Silent
    one = _connected(factory)
    clock.advance(2)
    other = _connected(factory)
    clock.advance(0.9)
    assert not one.aborted
    clock.advance(0.1)
    assert one.aborted
    assert not other.aborted
    clock.advance(2)
    assert other.aborted
    assert factory.admission.open == 0
    assert not clock.getDelayedCalls()


def test_who_leaves_in_time_meets_no_deadline() -> None:
    factory, clock = _factory(deadline=3)
    transport = _connected(factory)
    clock.advance(3)
    assert not transport.aborted
    assert not clock.getDelayedCalls()


def test_aborting_ends_every_connection_and_leaves_no_timer() -> None:
    factory, clock = _factory()
    factory.protocol = Silent
    transports = [_connected(factory) for _ in range(3)]
    factory.abort()
    assert all(transport.aborted for transport in transports)
    assert not clock.getDelayedCalls()


def test_over_tls_the_greeting_waits_for_the_handshake() -> None:
    factory, clock = _factory(transport="tls", deadline=1)
    for shakes_hands in (True, False):
        transport = Transport(peerAddress=PEER, hostAddress=LOCAL)
        alsoProvides(transport, ISSLTransport)
        _connected(factory, transport=transport)
        assert transport.value() == b""
        assert factory.admission.open == 1
        if shakes_hands:
            transport.protocol.handshakeCompleted()  # type: ignore[attr-defined]
            assert transport.value() == b"Hi"
        clock.advance(1)
        assert transport.aborted is not shakes_hands
    assert factory.ledger.greeted == {"tls": 1}


def test_the_words_are_a_subclasss_to_choose() -> None:
    class Polite(GreetingProtocol):
        def greeting(self) -> bytes:
            return b"Dear " + self.peer.host.encode() + b", " + super().greeting()

    factory, _ = _factory()
    factory.protocol = Polite
    assert _connected(factory).value() == b"Dear 192.0.2.7, Hi"


def test_a_subclass_may_go_on_talking_until_its_deadline() -> None:
    class Echo(GreetingProtocol):
        def greet(self) -> None:
            self.transport.write(self.greeting())
            self.factory.greeted(self)

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data)

    factory, clock = _factory(deadline=5)
    factory.protocol = Echo
    transport = _connected(factory)
    transport.protocol.dataReceived(b", you")
    assert transport.value() == b"Hi, you"
    clock.advance(5)
    assert transport.aborted


def test_a_whole_conversation_over_a_simulated_network() -> None:
    class Reader(Protocol):
        def __init__(self) -> None:
            self.read = b""
            self.reasons: list[Failure] = []

        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(b"hello?")

        def dataReceived(self, data: bytes) -> None:
            self.read += data

        def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
            self.reasons.append(reason)

    factory, clock = _factory()
    server, client = factory.buildProtocol(PEER), Reader()
    assert server is not None
    pump = connect(server, makeFakeServer(server), client, makeFakeClient(client))
    pump.flush()
    assert client.read == b"Hi"
    assert not client.reasons, "the peer may go on sending for a while"
    clock.advance(2)
    pump.flush()
    assert [reason.type for reason in client.reasons] == [ConnectionDone]
    assert factory.admission.open == 0
    clock.advance(10)


def test_a_connection_that_breaks_leaves_nothing_behind() -> None:
    factory, clock = _factory()
    factory.protocol = Silent
    transport = _connected(factory)
    transport.protocol.connectionLost(Failure(ConnectionAborted()))
    assert factory.admission.open == 0
    clock.advance(10)
    assert not transport.aborted


def test_without_anything_given_a_factory_has_its_own_ledger_admission_and_the_global_reactor() -> None:
    one, other = GreetingFactory(TextGreeter()), GreetingFactory(TextGreeter())
    assert one.ledger is not other.ledger
    assert one.admission is not other.admission


def _greeted_once(factory: GreetingFactory) -> GreetingFactory:
    _connected(factory)
    return factory


class Louder(GreetingProtocol):
    """Somebody's own."""

    def greeting(self) -> bytes:
        return super().greeting().upper()


class OwnFactory(GreetingFactory):
    """Somebody's own."""


def test_one_greeting_for_everybody_is_answered_at_once_when_it_is_known() -> None:
    factory = GreetingFactory(TextGreeter("hello"), reactor=Clock())
    assert factory.at_once() is None
    assert _greeted_once(factory).at_once() == b"hello"
    factory.protocol = Louder
    assert factory.at_once() is None


@pytest.mark.parametrize(
    ("kind", "greeter"),
    [
        (GreetingFactory, TextGreeter("{peer_host}")),
        (GreetingFactory, TextGreeter("x" * 513)),
        (OwnFactory, Counting()),
    ],
    ids=["each their own", "long", "own factory"],
)
def test_what_may_differ_or_is_long_is_left_to_a_protocol(kind: type[GreetingFactory], greeter: Any) -> None:
    assert _greeted_once(kind(greeter, reactor=Clock())).at_once() is None


def test_who_is_answered_at_once_is_limited_and_counted_like_all_others() -> None:
    admission, ledger = Admission(most=3, per_source=2), Ledger()
    visits = _watched(ledger)
    factory = GreetingFactory(TextGreeter("hello"), admission=admission, ledger=ledger, reactor=Clock())
    leaves = [factory.admit((host, 5)) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1", "127.0.0.1")]
    assert [leave is not None for leave in leaves] == [True, True, False, True, False]
    factory.answered([("192.0.2.1", 5), ("::ffff:192.0.2.2", 6, 0, 0), ("127.0.0.1", 7)])
    assert ledger.greeted == {"tcp": 3}
    assert [peer.host for peer in visits] == ["192.0.2.1", "192.0.2.2", "127.0.0.1"]
    assert ledger.refused == {}
    for leave in leaves:
        if leave is not None:
            leave()
    assert admission.open == 0
    assert admission.refusal(admission.source("192.0.2.1")) is None


class Strict(Admission):
    """Somebody's own: nobody is welcome."""

    def refusal(self, source: Any) -> str | None:
        return "closed"


class Noted(Ledger):
    """Somebody's own."""


@pytest.mark.parametrize("own", [{"admission": Strict()}, {"ledger": Noted()}])
def test_what_limits_and_counts_of_ones_own_is_always_asked(own: Any) -> None:
    factory = GreetingFactory(TextGreeter("hello"), reactor=Clock(), **own)
    factory._rendering.constant = b"hello"
    assert factory.at_once() is None


def test_a_factory_whose_protocols_are_made_elsewhere_is_always_asked() -> None:
    factory = _greeted_once(GreetingFactory(TextGreeter("hello"), reactor=Clock()))
    factory.buildProtocol = lambda _: None  # type: ignore[method-assign, assignment]
    assert factory.at_once() is None


def test_watchers_see_each_visit_of_a_batch_as_its_own(logged_errors: Any) -> None:
    ledger = Ledger()
    factory = GreetingFactory(TextGreeter("hello"), ledger=ledger, reactor=Clock())
    seen: list[tuple[str, int]] = []

    def watch(_: str, peer: Address) -> None:
        seen.append((peer.host, ledger.visits))
        if len(seen) == 1:
            raise ZeroDivisionError

    ledger.watchers.append(watch)
    factory.answered([("192.0.2.1", 5), ("192.0.2.2", 6)])
    assert seen == [("192.0.2.1", 1), ("192.0.2.2", 2)]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_the_link_of_a_link_local_peer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getnameinfo", lambda name, _: (f"{name[0]}%eth{name[3]}", str(name[1])))
    factory = GreetingFactory(TextGreeter("hello"), reactor=Clock())
    visits = _watched(factory.ledger)
    factory.answered([("fe80::1", 5, 0, 2), ("2001:db8::1", 6, 0, 0)])
    assert [peer.host for peer in visits] == ["fe80::1%eth2", "2001:db8::1"]
