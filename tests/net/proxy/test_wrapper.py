from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.proxy.header import encode_v1, encode_v2
from greetsvc.net.proxy.wrapper import ProxiedFactory, ProxiedTransport
from greetsvc.net.stream.facade import ListeningReactor

PROXY = IPv4Address("TCP", "127.0.0.1", 9)
CLIENT = IPv4Address("TCP", "192.0.2.1", 40112)
SERVICE = IPv4Address("TCP", "198.51.100.2", 443)
HEADERS = [encode((CLIENT.host, CLIENT.port), (SERVICE.host, SERVICE.port)) for encode in (encode_v1, encode_v2)]
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


@implementer(IHalfCloseableProtocol)
class Recorder(Protocol):
    """Greets with what it sees of the two ends, and notes what happens to it."""

    def __init__(self, built_for: object) -> None:
        self.built_for = built_for
        self.happened: list[object] = []
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.happened.append((transport.getPeer(), transport.getHost(), transport.via))
        transport.writeSequence([b"hello ", b"you"])

    def dataReceived(self, data: bytes) -> None:
        self.happened.append(data)

    def readConnectionLost(self) -> None:
        self.happened.append("half-closed")
        assert self.transport is not None
        self.transport.write(b", and bye")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Never lost on its own here."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.happened.append(reason.type)
        self.gone.callback(None)


class Recorders(Factory):
    def __init__(self) -> None:
        self.built: list[Recorder] = []
        self.full = False

    def buildProtocol(self, addr: object) -> Recorder | None:
        if self.full:
            return None
        self.built.append(Recorder(addr))
        return self.built[-1]


@define
class Arrival:
    """One connection through a proxied factory, in memory."""

    clock: Clock = field(factory=Clock)
    inner: Recorders = field(factory=Recorders)
    refusals: list[str] = field(factory=list)
    transport: StringTransport = field(factory=lambda: StringTransport(peerAddress=PROXY))
    protocol: Any = None

    def connect(self, *, steps_aside: bool = True, peer: Any = PROXY) -> None:
        factory = ProxiedFactory(
            self.inner,
            trusted=lambda host: host == PROXY.host,
            refused=self.refusals.append,
            reactor=self.clock,
        )
        self.protocol = factory.buildProtocol(peer)
        if self.protocol is not None:
            if steps_aside:
                self.transport.protocol = self.protocol  # type: ignore[attr-defined]
            self.protocol.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        getattr(self.transport, "protocol", self.protocol).dataReceived(data)

    def lose(self) -> None:
        getattr(self.transport, "protocol", self.protocol).connectionLost(connectionDone)


@pytest.fixture(params=[True, False], ids=["stepping aside", "staying between"])
def arrival(request: pytest.FixtureRequest) -> Iterator[Arrival]:
    arrived = Arrival()
    arrived.connect(steps_aside=request.param)
    yield arrived
    assert not arrived.clock.getDelayedCalls()


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_protocol_is_built_when_the_header_is_complete_and_sees_its_addresses(
    arrival: Arrival, header: bytes, piece: int
) -> None:
    for start in range(0, len(header) - 1, piece):
        arrival.receive(header[start : min(start + piece, len(header) - 1)])
    assert (arrival.inner.built, arrival.transport.value()) == ([], b"")
    arrival.receive(header[-1:] + b"first")
    arrival.receive(b"second")
    [recorder] = arrival.inner.built
    assert recorder.built_for == CLIENT
    assert recorder.happened == [(CLIENT, SERVICE, PROXY), b"first", b"second"]
    assert arrival.transport.value() == b"hello you"
    arrival.lose()
    assert recorder.happened[-1] is ConnectionDone
    assert arrival.refusals == []


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", LOCAL])
def test_a_header_without_addresses_leaves_the_real_ones(arrival: Arrival, header: bytes) -> None:
    arrival.receive(header)
    [recorder] = arrival.inner.built
    assert recorder.built_for == PROXY
    assert recorder.happened == [(PROXY, arrival.transport.getHost(), None)]


def test_a_peer_that_is_not_trusted_gets_no_protocol() -> None:
    arrival = Arrival()
    arrival.connect(peer=IPv4Address("TCP", "203.0.113.9", 1))
    assert (arrival.protocol, arrival.refusals, arrival.inner.built) == (None, ["proxy-untrusted"], [])


def test_a_unix_peer_is_always_trusted() -> None:
    arrival = Arrival()
    arrival.connect(peer=UNIXAddress(None))
    arrival.receive(HEADERS[0])
    assert len(arrival.inner.built) == 1


def test_an_invalid_header_is_refused_once_and_nothing_is_sent(arrival: Arrival) -> None:
    arrival.receive(b"PROXY TCP4 999.2.3.4 ")
    arrival.receive(b"192.0.2.2 1 2\r\nGET /")
    arrival.receive(HEADERS[0])
    arrival.lose()
    assert arrival.refusals == ["proxy-header"]
    assert arrival.transport.disconnected
    assert (arrival.transport.value(), arrival.inner.built) == (b"", [])


def test_a_header_that_is_not_complete_in_three_seconds_is_refused(arrival: Arrival) -> None:
    arrival.receive(HEADERS[0][:-1])
    arrival.clock.advance(2.9)
    assert arrival.refusals == []
    arrival.clock.advance(0.2)
    arrival.receive(HEADERS[0][-1:])
    arrival.lose()
    assert arrival.refusals == ["proxy-timeout"]
    assert arrival.transport.disconnected
    assert (arrival.transport.value(), arrival.inner.built) == (b"", [])


def test_closing_inside_the_header_is_a_refusal_and_closing_before_it_is_not(arrival: Arrival) -> None:
    again = Arrival(clock=arrival.clock)
    again.connect()
    again.lose()
    assert again.refusals == []
    arrival.receive(b"PRO")
    arrival.lose()
    assert arrival.refusals == ["proxy-header"]


def test_a_source_that_is_not_admitted_is_reset_and_nothing_is_sent(arrival: Arrival) -> None:
    arrival.inner.full = True
    arrival.receive(HEADERS[1] + b"rest")
    arrival.receive(b"more")
    arrival.lose()
    assert arrival.transport.disconnected
    assert (arrival.transport.value(), arrival.refusals) == (b"", [])


def test_the_methods_and_interfaces_of_the_transport_are_passed_through() -> None:
    arrival = Arrival()
    arrival.connect()
    arrival.receive(HEADERS[0])
    [recorder] = arrival.inner.built
    transport: Any = recorder.transport
    producer = object()
    transport.registerProducer(producer, True)
    transport.pauseProducing()
    assert isinstance(transport, ProxiedTransport)
    assert IPushProducer.providedBy(transport) == IPushProducer.providedBy(arrival.transport)
    assert ITCPTransport.providedBy(transport) == ITCPTransport.providedBy(arrival.transport)
    assert (arrival.transport.producer, arrival.transport.producerState) == (producer, "paused")
    with pytest.raises(AttributeError):
        transport.no_such_method()
    transport.loseConnection()
    assert arrival.transport.disconnecting


def test_bytes_after_the_header_go_to_the_protocol_that_the_transport_has_then() -> None:
    """As when connectionMade puts TLS before the protocol, or closes so that nobody is there any more."""
    for successor in (Recorder(None), None):
        arrival = Arrival()
        arrival.connect()

        def taken_over(recorder: Recorder = successor, arrival: Arrival = arrival) -> None:  # type: ignore[assignment]
            arrival.transport.protocol = recorder  # type: ignore[attr-defined]

        class Inner(Factory):
            def buildProtocol(self, addr: object, taken_over: Any = taken_over) -> Any:
                protocol = Protocol()
                protocol.connectionMade = taken_over  # type: ignore[method-assign]
                return protocol

        arrival.inner = Inner()  # type: ignore[assignment]
        arrival.connect()
        arrival.receive(HEADERS[0] + b"rest")
        if successor is not None:
            assert successor.happened == [b"rest"]
        arrival.clock.advance(4)


def test_the_wrapped_factory_is_started_and_stopped() -> None:
    calls: list[str] = []

    class Counting(Factory):
        def doStart(self) -> None:
            calls.append("start")

        def doStop(self) -> None:
            calls.append("stop")

    factory = ProxiedFactory(Counting(), trusted=lambda host: False, refused=calls.append)
    factory.doStart()
    factory.doStop()
    assert calls == ["start", "stop"]


class Client(Protocol):
    """Sends and half-closes; has all that was received when the connection is over."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self.data)
        transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.received)


async def ask(factory: ProxiedFactory, data: bytes, *, eager: bool) -> bytes:
    """What a listener, Twisted's or ours, answers to a client that sends this and half-closes."""
    listening: Any = ListeningReactor(reactor) if eager else reactor
    port = await TCP4ServerEndpoint(listening, 0, interface="127.0.0.1").listen(factory)
    if eager:
        listening.begin()
    try:
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), Client(data))
        client.done.addTimeout(10, reactor)
        received: bytes = await client.done
        return received
    finally:
        await port.stopListening()


@pytest.mark.parametrize("eager", [False, True], ids=["stock transport", "our transport"])
@pytest_twisted.ensureDeferred
async def test_over_tcp_the_protocol_gets_its_data_its_half_close_and_its_loss(eager: bool) -> None:
    for header in HEADERS:
        inner = Recorders()
        factory = ProxiedFactory(inner, trusted=lambda host: host == "127.0.0.1", refused=pytest.fail)
        assert await ask(factory, header + b"rest", eager=eager) == b"hello you, and bye"
        [recorder] = inner.built
        recorder.gone.addTimeout(10, reactor)
        await recorder.gone
        first, *others = recorder.happened
        assert isinstance(first, tuple)
        assert (first[:2], first[2].host) == ((CLIENT, SERVICE), "127.0.0.1")
        assert others == [b"rest", "half-closed", ConnectionDone]


@pytest.mark.parametrize("eager", [False, True], ids=["stock transport", "our transport"])
@pytest_twisted.ensureDeferred
async def test_over_tcp_a_refused_peer_receives_nothing(eager: bool) -> None:
    for trusted, data, reason in (
        (False, HEADERS[0], "proxy-untrusted"),
        (True, b"GET / HTTP/1.1\r\n\r\n", "proxy-header"),
        (True, b"PROXY UNKNOWN".ljust(200), "proxy-header"),
        (True, HEADERS[0][:-1], "proxy-header"),
    ):
        refusals: list[str] = []
        factory = ProxiedFactory(Recorders(), trusted=lambda host, trusted=trusted: trusted, refused=refusals.append)  # type: ignore[misc]
        assert await ask(factory, data, eager=eager) == b""
        assert refusals == [reason]
