"""The public API as the programs of users write it: mypy --strict checks it (`make types`), and nothing runs it.

Each public name is used once at least; `tests/docs/test_public_names.py` looks that none is left out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

import greetsvc
from greetsvc import GreetFailed, Greeting, Run, greet, greet_ex, greet_many
from greetsvc.client import (
    ClientTls,
    Connections,
    FailureCount,
    Histogram,
    LoadMetrics,
    PathChanges,
    RoundTrip,
    SecondCounts,
    Seconds,
    Talk,
    Talked,
    Target,
)
from greetsvc.greeters import (
    Address,
    DaytimeGreeter,
    FileGreeter,
    FortuneGreeter,
    Greeter,
    GreeterFactory,
    PathGreeter,
    TextGreeter,
    Visit,
    find_greeter,
)
from greetsvc.net import (
    DatagramPort,
    Deadlines,
    Endpoint,
    ILingers,
    Lingerers,
    LingeringClose,
    ListeningReactor,
    ProxiedFactory,
    ProxiedTransport,
    ProxyHeader,
    ProxyHeaderError,
    ProxyParser,
    StreamPort,
    UnixPath,
    datagram_socket,
    encode_v1,
    encode_v2,
    parse_endpoint,
    stream_socket,
    tls_endpoint,
    unix_datagram_socket,
    unix_stream_socket,
)
from greetsvc.protocols import (
    Context,
    DatagramPlugin,
    Datagrams,
    DatagramService,
    Framing,
    Int32Protocol,
    Limits,
    LinesProtocol,
    NetstringProtocol,
    ProtocolFactory,
    Receiver,
    StreamPlugin,
    StreamService,
    TalkingProtocol,
    WebSocketProtocol,
    find_protocol,
)
from greetsvc.server import (
    Admission,
    GreeterFailed,
    GreetingDatagramProtocol,
    GreetingFactory,
    GreetingProtocol,
    Ledger,
    Sessions,
    UdpPolicy,
)
from greetsvc.testing import Conformance, MemoryPeer, Wire, context

if TYPE_CHECKING:
    # Type checkers know the names that are there, and only these.
    from greetsvc.net import no_such_name  # type: ignore[attr-defined]  # noqa: F401

version: str = greetsvc.__version__


# The client


async def one_probe() -> bytes:
    try:
        greeting: Greeting = await greet("udp:127.0.0.1:8088", timeout=2.0, family=4, size=1200, encoding="ascii")
    except GreetFailed as failed:
        phase: str = failed.phase
        number: int | None = failed.errno
        raise OSError(number, phase) from failed
    seconds: Seconds = greeting.seconds
    total: float = seconds.total
    first: float | None = seconds.first_byte
    peer: Address = greeting.peer
    changes: PathChanges | None = greeting.path
    nat: bool | None = changes is not None and changes.nat
    print(greeting.text, greeting.closed, total, first, peer.host, peer.port, nat, *greeting.notes)
    return greeting.data


async def number_of_a_failure() -> int:
    return await greet_ex(Target("tls", "greet.example", 8443), tls=ClientTls(ca="ca.pem", sni="greet.example"))


async def talk() -> float:
    greeting = await greet("127.0.0.1", talk=Talk("lines", ("Ada", "Grace")))
    talked: Talked | None = greeting.talk
    assert talked is not None
    trips: tuple[RoundTrip, ...] = talked.round_trips
    for trip in trips:
        print(trip.said, trip.reply, trip.seconds)
    run = await Run("127.0.0.1", duration=1, talk=Talk("int32")).go()
    connections: Connections | None = run.metrics.connections
    assert connections is not None
    print(connections.opened, connections.most, connections.seconds.mean, run.metrics.connection_rate)
    return talked.close or talked.seconds


async def several_probes() -> int:
    lost = 0
    async for result in greet_many("127.0.0.1", count=5, interval=0.1, timeout=1.0):
        lost += isinstance(result, GreetFailed)
    return lost


async def load() -> None:
    def each_second(number: int, second: SecondCounts, in_flight: int) -> None:
        print(number, second.sent, second.greeted, second.lost, in_flight)

    run: Run = await Run("127.0.0.1", duration=10, rate=100, concurrency=8, expect="hello", warn=0.5).go(each_second)
    metrics: LoadMetrics = run.metrics
    histogram: Histogram = run.histogram
    failures: list[FailureCount] = metrics.failures
    for failure in failures:
        print(failure.phase, failure.name, failure.errno, failure.words, failure.count)
    print(metrics.sent, metrics.greeted, metrics.lost, metrics.rate, histogram.percentile(99), histogram.mean)
    for warning in metrics.warnings(run.concurrency):
        print(warning)


# Greeters


class OwnGreeter:
    needs = frozenset({"peer", "when"})

    def __init__(self, word: str, encoding: str) -> None:
        self._word = word
        self._encoding = encoding

    def greet(self, visit: Visit) -> bytes:
        via: Address | None = visit.via
        host = (via or visit.peer).host
        return f"{self._word} {host} {visit.when} {visit.transport} {visit.number}\n".encode(self._encoding)


class GreeterWithProperty:
    @property
    def needs(self) -> set[str]:
        return set()

    def greet(self, visit: Visit) -> bytes:
        return b""


factories: list[GreeterFactory] = [
    OwnGreeter,
    TextGreeter.from_argument,
    FileGreeter.from_argument,
    FortuneGreeter.from_argument,
    DaytimeGreeter.from_argument,
    PathGreeter.from_argument,
]
greeters: list[Greeter] = [
    OwnGreeter("Hello", "utf-8"),
    GreeterWithProperty(),
    TextGreeter("Hello {peer_host}", "latin-1"),
    FileGreeter("/etc/motd"),
    FortuneGreeter("/usr/share/games/fortunes/fortunes"),
    DaytimeGreeter(),
    PathGreeter(),
    find_greeter("text", "Hello", "utf-8"),
    *(factory("argument", "utf-8") for factory in factories),
]
greeting: bytes = greeters[0].greet(Visit("tcp", Address("192.0.2.1", 5), Address("192.0.2.2", 8088)))


# Protocols that greet


class OwnProtocol(GreetingProtocol):
    def greeting(self) -> bytes:
        if self.peer.host.startswith("192.0.2."):
            raise GreeterFailed
        opened: int = self.factory.admission.open
        return super().greeting() + str(opened).encode()

    def greet(self) -> None:
        self.transport.write(self.greeting())
        self.factory.greeted(self)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.close()


class OwnFactory(GreetingFactory):
    protocol = OwnProtocol


class OwnDatagrams(GreetingDatagramProtocol):
    def greeting(self, peer: Address, request: bytes) -> bytes:
        return peer.host.encode()


def serve(reactor: Any) -> None:
    ledger = Ledger()
    admission = Admission(max_connections=1000, max_per_source=10, exempt_loopback=False)
    factory = OwnFactory(
        TextGreeter(), ledger=ledger, admission=admission, deadline=30, linger=2, transport="tcp", reactor=reactor
    )
    factory.protocol = OwnProtocol
    reactor.listenTCP(8088, factory)
    policy = UdpPolicy(reactor.seconds, budget=2048, own_ports={8088})
    datagrams = OwnDatagrams(TextGreeter(), ledger=ledger, policy=policy, sessions=Sessions(), transport="udp")
    reactor.listenUDP(8088, datagrams)

    def visited(transport: str, peer: Address) -> None:
        print(transport, peer.host)

    ledger.watchers.append(visited)
    counts: dict[str, int] = {**ledger.greeted, **ledger.refused}
    print(ledger.visits, counts)
    factory.abort()


# Plugins of the service


class Shout(TalkingProtocol):
    """Shouts."""

    default_limits: ClassVar[Limits] = Limits(max=512, total=100)
    options: ClassVar[Mapping[str, Callable[[str], object]]] = {"times": int}

    def reply(self, message: str) -> str:
        if message == "quit":
            self.close()
        times = self.factory.options.get("times", 1)
        assert isinstance(times, int)
        return message.upper() * times


class Raw(NetstringProtocol):
    def reply(self, message: str) -> bytes:
        return super().reply(message) if message else b"\xff"  # type: ignore[return-value]


class Dots:
    """A framing of its own: messages end with a dot."""

    def __init__(self, encoding: str, longest: int, /) -> None:
        self.longest = longest

    def receiver(self) -> Receiver:
        return DotReceiver()

    def frames(self, payloads: list[bytes]) -> bytes:
        return b"".join(payload + b"." for payload in payloads)


class DotReceiver:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.fault = ""

    def dataReceived(self, data: bytes) -> None:
        self.messages += data.split(b".")


class Dotted(TalkingProtocol):
    framing: ClassVar[type[Framing]] = Dots


talking: list[type[TalkingProtocol]] = [Shout, Raw, Dotted, LinesProtocol, Int32Protocol, WebSocketProtocol]


class OwnPlugin:
    def __init__(self, argument: str, encoding: str) -> None: ...

    def stream(self, context: Context) -> GreetingFactory:
        return GreetingFactory(
            context.greeter,
            ledger=context.ledger,
            admission=context.admission,
            deadline=context.deadline,
            linger=context.linger,
            transport=context.transport,
            reactor=context.reactor,
        )

    def datagram(self, context: Context) -> Datagrams:
        return Datagrams(GreetingDatagramProtocol(context.greeter, policy=context.policy), headers=True)


def plain(argument: str, encoding: str) -> StreamService:
    return StreamService(factory=Factory.forProtocol(Closing))


def mirror(argument: str, encoding: str) -> DatagramService:
    return DatagramService(make=Echo, loop_safe=True, headers=True)


protocols: list[ProtocolFactory] = [OwnPlugin, Shout.from_argument, plain, mirror]


class TestShout(Conformance):
    plugin = "shout:times=2"
    wire = Wire(messages=[b"a\n"], too_long=b"a" * 5000)


def in_memory(clock: Any) -> bytes:
    plugin: StreamPlugin | DatagramPlugin = find_protocol("shout", "times=2", "utf-8")
    assert isinstance(plugin, StreamPlugin)
    peer = MemoryPeer(plugin.stream(context(clock)), clock)
    peer.say(b"a\n")
    peer.leave()
    return b"" if peer.reset else bytes(peer.heard)


# The networking parts


class Echo(DatagramProtocol):
    transport: Any

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if not self.transport.group:
            self.transport.write(datagram, addr)


class Closing(Protocol):
    closing: LingeringClose | None = None

    def connectionMade(self) -> None:
        from twisted.internet import reactor

        clock: Any = reactor
        if ILingers.providedBy(self.transport):
            assert isinstance(self.transport, ProxiedTransport)
            print(self.transport.via, self.transport.getPeer())
            self.transport.loseConnection()
        else:
            self.closing = LingeringClose(self.transport, clock, silence=2, lifetime=10)

    def dataReceived(self, data: bytes) -> None:
        if self.closing is not None:
            self.closing.discard(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self.closing is not None:
            self.closing.stop()


def dropped(reason: str) -> None:
    print(reason)


async def network(reactor: Any) -> None:
    lingerers = Lingerers(reactor, silence=2, lifetime=10, max_sockets=1000)
    listening = ListeningReactor(reactor, lingerers=lingerers, v4_ports={8088}, dropped=dropped)
    endpoint: Endpoint = parse_endpoint("tls:/etc/greetsvc:port=8443")
    await tls_endpoint(listening, endpoint, client_ca="ca.pem").listen(Factory.forProtocol(Closing))
    ports: list[StreamPort] = listening.ports
    ports += [
        StreamPort(stream_socket("::", 8088, v6only=True), Factory.forProtocol(Closing), reactor, dropped=dropped),
        StreamPort(unix_stream_socket("s", mode=0o600), Factory(), reactor, path=UnixPath("s"), lingerers=lingerers),
    ]
    listening.begin()
    udp: socket.socket = datagram_socket("", 8088)
    for port in (
        DatagramPort(udp, Echo(), reactor, longest=512, dropped=dropped),
        DatagramPort(unix_datagram_socket("d"), Echo(), reactor, path=UnixPath("d")),
    ):
        port.startListening()
        print(port.getHost(), port.asked, port.group)
        await port.stopListening()
    lingerers.stop()


def proxied(reactor: Any, networks: Iterable[str]) -> None:
    def refused(reason: str) -> None:
        print(reason)

    factory = ProxiedFactory(
        Factory.forProtocol(Closing),
        trusted=lambda host: host in networks,
        refused=refused,
        timeout=3.0,
        admission=Admission(max_connections=100),
        reactor=reactor,
    )
    reactor.listenTCP(8088, factory)


def read_header(data: bytes) -> ProxyHeader | None:
    client, server = ("192.0.2.1", 1234), ("192.0.2.2", 8088)
    try:
        found = ProxyParser().feed(encode_v1(client, server) + encode_v2(client, server) + data)
    except ProxyHeaderError as error:
        print(error)
        return None
    return None if found is None else found[0]


def deadlines(reactor: Any) -> None:
    def expired(connection: Protocol) -> None:
        print(connection)

    kept: Deadlines[Protocol] = Deadlines(reactor, 10, expired)
    kept.add(Closing())
    kept.stop()
