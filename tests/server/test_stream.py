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


def test_a_peer_is_greeted_and_its_connection_closed() -> None:
    factory, _ = _factory()
    seen: list[Any] = []
    factory.ledger.watchers.append(lambda *visit: seen.append(visit))
    transport = _connected(factory)
    assert transport.value() == b"Hi"
    assert not transport.connected
    assert factory.ledger.greeted == {"tcp": 1}
    assert seen == [("tcp", Address("192.0.2.7", 40000))]
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
    assert (first.transport, first.peer) == ("unix", Address("192.0.2.7", 40000))
    assert (first.via, first.tls, first.path, first.size) == (None, None, None, None)


class Untouchable(Transport):
    """Where it was reached, and through whom, must not be asked for."""

    def getHost(self) -> Any:
        raise AssertionError("getHost was called")

    def __getattr__(self, name: str) -> Any:
        assert name != "via"
        raise AttributeError(name)


def test_a_visit_has_only_the_fields_that_the_greeter_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    greeter = Counting("peer")
    factory, _ = _factory(greeter)
    with monkeypatch.context() as patch:
        for module in ("time.time", "greetsvc.server.stream._tls_facts", "greetsvc.server.stream.read_syn"):
            patch.delattr(module)
        patch.delattr(Ledger, "visits")
        _connected(factory, transport=Untouchable(peerAddress=PEER))
    assert greeter.visits == [Visit("tcp", Address("192.0.2.7", 40000), Address("", 0))]


def test_a_visit_has_each_field_that_the_greeter_needs() -> None:
    greeter = Counting("local", "number", "when")
    factory, _ = _factory(greeter)
    _connected(factory)
    (visit,) = greeter.visits
    assert (visit.local, visit.number) == (Address("192.0.2.1", 8088), 1)
    assert visit.when > 1_600_000_000


def test_a_visit_names_the_proxy_of_its_transport() -> None:
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
def test_any_address_of_twisted_becomes_a_host_and_a_port(address: Any, expected: tuple[str, int]) -> None:
    assert address_of(address) == expected


def test_a_peer_that_is_not_admitted_gets_no_protocol_and_is_counted() -> None:
    ledger, admission = Ledger(), Admission(max_connections=2, max_per_source=1)
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

    factory, _ = _factory(admission=Admission(max_per_source=1))
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


def test_a_connection_is_aborted_at_its_deadline_and_counted() -> None:
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


def test_a_connection_that_ended_has_no_deadline() -> None:
    factory, clock = _factory(deadline=3)
    transport = _connected(factory)
    clock.advance(3)
    assert not transport.aborted
    assert not clock.getDelayedCalls()


class HalfClosing(Transport):
    """A stock transport that stays open after its half-close, until the peer closes."""

    closed = 0

    def loseWriteConnection(self) -> None:
        self.closed += 1


def test_a_connection_that_is_closed_twice_closes_once_and_leaves_no_timer() -> None:
    factory, clock = _factory()
    transport = _connected(factory, transport=HalfClosing(peerAddress=PEER))
    protocol: Any = transport.protocol
    protocol.close()
    protocol.connectionLost(Failure(ConnectionDone()))
    factory.abort()
    assert transport.closed == 1  # type: ignore[attr-defined]
    assert not clock.getDelayedCalls()


def test_abort_ends_every_connection_and_leaves_no_timer() -> None:
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


def test_a_subclass_chooses_its_greeting() -> None:
    class Polite(GreetingProtocol):
        def greeting(self) -> bytes:
            return b"Dear " + self.peer.host.encode() + b", " + super().greeting()

    factory, _ = _factory()
    factory.protocol = Polite
    assert _connected(factory).value() == b"Dear 192.0.2.7, Hi"


def test_a_subclass_may_keep_the_connection_until_its_deadline() -> None:
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


def test_a_whole_visit_over_a_simulated_network() -> None:
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
