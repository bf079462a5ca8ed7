"""Protocols are found through entry points, ours and those of others, and are chosen for listeners."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher

from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.table import ONCE
from greetsvc.errors import ConfigError
from greetsvc.greeters.text import TextGreeter
from greetsvc.protocols.registry import Context, DatagramPlugin, StreamPlugin, find_protocol, known_protocols
from greetsvc.testing import Conformance
from greetsvc.testing.memory import DEADLINE, MemoryPeer, context
from greetsvc.testing.wires import Wire
from tests.protocols.conftest import Install
from tests.support.service import Serving, ask
from tests.support.waiting import until

TCP, UDP = "tcp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1"
Serve = Callable[..., Serving]

reactor: Any = global_reactor

ACME = '''
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from zope.interface import implementer
from greetsvc.protocols import DatagramService, StreamService, TalkingProtocol
from greetsvc.server import GreetingFactory


class Echo(Protocol):
    """Any Twisted protocol, which knows nothing of greetsvc."""

    def connectionMade(self):
        self.transport.write(b"ready\\n")

    def dataReceived(self, data):
        self.transport.write(data.upper())


@implementer(IPushProducer)
class CarefulEcho(Echo):
    """Reads no more than its peer does."""

    def connectionMade(self):
        self.transport.registerProducer(self, True)
        super().connectionMade()

    def pauseProducing(self):
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.transport.resumeProducing()

    def stopProducing(self):
        pass


class Counting(TalkingProtocol):
    """Its answers depend on how many there were."""

    count = 0

    def reply(self, message):
        self.count += 1
        return f"{self.count}: {message}"


class Long(TalkingProtocol):
    """Its answers are long, or empty."""

    def reply(self, message):
        return message * 400 if len(message) > 100 else ""


class Mirror(DatagramProtocol):
    def datagramReceived(self, datagram, addr):
        self.transport.write(datagram[::-1], addr)


class Talkative(DatagramProtocol):
    def datagramReceived(self, datagram, addr):
        self.transport.write(datagram * 10, addr)


class Both:
    """Echoes, and mirrors datagrams."""

    def __init__(self, argument, encoding):
        if argument:
            raise ValueError("there are no options")
        self.stream = StreamService(factory=Factory.forProtocol(Echo)).stream
        self.datagram = DatagramService(make=Mirror, loop_safe=True).datagram


def careful(argument, encoding):
    return StreamService(factory=Factory.forProtocol(CarefulEcho))


def mirror(argument, encoding):
    """Mirrors datagrams."""
    return DatagramService(make=Mirror, loop_safe=True)


def careless(argument, encoding):
    return DatagramService(make=Mirror)


def talkative(argument, encoding):
    return DatagramService(make=Talkative, loop_safe=True)


def neither(argument, encoding):
    return object()


class Unbuildable:
    """Says no when it is needed."""

    def __init__(self, argument, encoding):
        pass

    def stream(self, context):
        raise LookupError("not for " + context.transport)


def failing(argument, encoding):
    raise KeyError("not that")


async def coroutine(argument, encoding):
    return mirror(argument, encoding)


def no_factory(argument, encoding):
    return StreamService(factory=Echo)


class Wrong:
    """Returns what is no part of a service: what its argument says."""

    def __init__(self, argument, encoding):
        self.made = {"plain": Factory.forProtocol(Echo), "class": Mirror, "bare": Mirror()}.get(argument)
        self.left_out = argument

    def stream(self, context):
        if self.left_out in {"ledger", "admission"}:
            given = {"ledger": context.ledger, "admission": context.admission}
            del given[self.left_out]
            return GreetingFactory(context.greeter, **given)
        return self.made

    def datagram(self, context):
        return DatagramService(make=lambda: self.made).datagram(context) if self.made is None else self.made


class Late(DatagramProtocol):
    def startProtocol(self):
        raise RuntimeError("no table\\nto begin with")


class LateFactory(Factory):
    protocol = Echo

    def startFactory(self):
        raise LookupError("no table")


class BeginsNot:
    """Fails when it is to begin."""

    def __init__(self, argument, encoding):
        self.stream = StreamService(factory=LateFactory()).stream
        self.datagram = DatagramService(make=Late).datagram
'''


@pytest.fixture
def acme(install: Install) -> Path:
    """Protocols of others: some work, some do not."""
    return install(
        ACME,
        acme="Both",
        mirror="mirror",
        careful="careful",
        careless="careless",
        talkative="talkative",
        neither="neither",
        failing="failing",
        unbuildable="Unbuildable",
        gone="no_such_name",
        coroutine="coroutine",
        counting="Counting",
        long="Long",
        no_factory="no_factory",
        wrong="Wrong",
        begins_not="BeginsNot",
    )


async def _thread(call: Any, *arguments: Any) -> Any:
    return await deferToThread(call, *arguments).addTimeout(10, reactor)


def test_the_built_in_protocols_come_through_the_door_and_are_described() -> None:
    known = dict(known_protocols())
    assert {"once", "lines", "netstring", "int32", "websocket"} <= set(known)
    assert all(description.startswith("Greets") for description in known.values())


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("line", "there is no protocol 'line'; did you mean 'lines'? known are acme, begins_not, careful"),
        ("LINES", "did you mean 'lines'?"),
        ("xyzzy", "there is no protocol 'xyzzy'; known are "),
        ("once:2", "once takes no options, not '2'"),
        ("acme:x", "there are no options"),
        ("neither", "which has neither stream() nor datagram()"),
        ("failing", "the protocol 'failing' cannot be made: KeyError('not that')"),
        ("gone", "the protocol 'gone' "),
        ("coroutine", "is a coroutine function"),
        ("no_factory", "factory must be a protocol factory, such as Factory.forProtocol"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(name: str, says: str) -> None:
    kind, _, argument = name.partition(":")
    with pytest.raises(ValueError, match=r".") as caught:
        find_protocol(kind, argument, "utf-8")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_protocol("lines", "", "utf-8")
    assert find_protocol("acme", "", "utf-8")


@pytest.mark.usefixtures("acme")
def test_the_traceback_of_a_plugin_is_in_the_log_at_debug_level() -> None:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    try:
        with pytest.raises(ValueError, match="does not load"):
            find_protocol("gone", "", "utf-8")
    finally:
        globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]
    (event,) = [event for event in events if event.get("name") == "gone"]
    assert event["log_level"] is LogLevel.debug
    assert "AttributeError" in event["trace"]


def test_what_does_not_load_is_one_line_in_the_list(install: Install) -> None:
    install('raise RuntimeError("no database\\nand no \\x1b[31m either")', broken="Broken")
    described = dict(known_protocols())["broken"]
    assert described.endswith(r"does not load: no database\nand no \x1b[31m either")


def test_two_of_one_name_are_refused_and_both_are_named(install: Install) -> None:
    install(ACME, lines="Both")
    with pytest.raises(ValueError, match="'lines' is in several distributions") as caught:
        find_protocol("lines", "", "utf-8")
    assert ":Both" in str(caught.value)
    assert "greetsvc.protocols.framed:LinesProtocol" in str(caught.value)
    assert "in several distributions" in dict(known_protocols())["lines"]


# Which listener speaks what


def _chosen(listeners: Any) -> list[str]:
    return [one.protocol_option for one in listeners]


def test_each_listener_may_have_its_own() -> None:
    file = {
        "protocol": "netstring",
        "listen": [
            {"endpoint": TCP},
            {"endpoint": TCP, "protocol": "lines:max=10", "encoding": "gbk"},
            {"endpoint": TCP, "protocol": "once"},
            UDP,
        ],
    }
    found = settings({}, (), file, "x.toml").listeners
    assert _chosen(found) == ["netstring", "lines:max=10", "once", "once"]
    assert found[1].encoding == "gbk"
    assert found[3].plugin is ONCE
    assert _chosen(settings({"protocol": "int32"}, (), file, "x.toml").listeners)[:3] == ["int32"] * 3


@pytest.mark.parametrize(
    ("given", "listen", "file", "says"),
    [
        ({"protocol": "line"}, (), {}, "--protocol: there is no protocol 'line'"),
        ({"protocol": "lines:max=x"}, (), {}, "--protocol: 'lines:max=x': max must be a whole number"),
        ({"protocol": "lines"}, [UDP], {}, "--protocol: 'lines' can serve none of the listeners"),
        (
            {},
            (),
            {"listen": [{"endpoint": UDP, "protocol": "lines"}]},
            "x.toml: listen 1: protocol: 'lines' does not serve datagrams, as udp:0",
        ),
        ({"protocol": "lines", "encoding": "punycode"}, (), {}, "lines cannot be told apart"),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_the_setting(given: Any, listen: Any, file: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(given, listen, file, "x.toml")
    assert says in str(caught.value)


@pytest.mark.usefixtures("acme")
def test_a_protocol_that_cannot_be_built_is_one_line_too(serve: Serve) -> None:
    with pytest.raises(
        ConfigError, match=r"^--listen tcp:0\S*: the protocol 'unbuildable' cannot be made: not for tcp$"
    ):
        serve(TCP, protocol="unbuildable")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("listen", "protocol", "says"),
    [
        (TCP, "wrong", r"stream\(\) returned None, which is no GreetingFactory"),
        (TCP, "wrong:plain", r"stream\(\) returned <\S*Factory .*>, which is no GreetingFactory"),
        (TCP, "wrong:ledger", r"the factory that stream\(\) returned has another ledger than its context"),
        (TCP, "wrong:admission", r"the factory that stream\(\) returned has another admission than its context"),
        (UDP, "wrong", r"make\(\) returned None, which is no DatagramProtocol"),
        (UDP, "wrong:class", r"datagram\(\) returned <class '.*Mirror'>, which is no Datagrams with a protocol"),
        (UDP, "wrong:bare", r"datagram\(\) returned <.*>, which is no Datagrams with a protocol"),
    ],
)
def test_what_is_no_part_of_a_service_is_refused_before_anything_is_bound(
    listen: str, protocol: str, says: str, serve: Serve
) -> None:
    with pytest.raises(ConfigError, match=rf"^--listen \S*: the protocol '{protocol}' cannot be made: {says}$"):
        serve(listen, protocol=protocol)


def _first_words(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        return peer.recv(100)


def _listening(*listeners: tuple[str, str]) -> Any:
    """Settings of these endpoints with their protocols."""
    file = {"listen": [{"endpoint": endpoint, "protocol": protocol} for endpoint, protocol in listeners]}
    return settings({"drain": 0, "log-visits": "off"}, (), file, "x.toml")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("listen", [TCP, UDP, r"unix:{}/greet.sock", r"unixgram:{}/greet.sock"])
@pytest_twisted.ensureDeferred
async def test_after_a_reload_a_protocol_that_does_not_begin_costs_only_its_listener(
    listen: str, serve: Serve, tmp_path: Path
) -> None:
    listen = listen.format(tmp_path)
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    try:
        serving = serve(TCP, protocol="lines")
        service = serving.service
        service.reread = lambda: _listening((listen, "begins_not"), (TCP, "acme"))
        service.reload()
    finally:
        globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]
    errors = [event["error"] for event in events if event["log_level"] >= LogLevel.error]
    (error,) = errors
    assert error.startswith("x.toml: listen 1: the protocol 'begins_not' does not start: no table")
    (line,) = service.describe()[:1]
    assert "over acme" in line
    assert await _thread(_first_words, serving.ports[-1]) == b"ready\n"
    assert not list(tmp_path.glob("greet.sock"))
    # The next settings have all again.
    service.reread = lambda: _listening((listen, "once" if "u" in listen[:2] else "lines"), (TCP, "acme"))
    service.reload()
    assert len(service.describe()) == 2


@pytest_twisted.ensureDeferred
async def test_without_a_greeting_who_has_a_name_is_thanked_by_it(serve: Serve) -> None:
    serving = serve(TCP, UDP, protocol="lines")

    def talk() -> list[bytes]:
        with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as sock:
            sock.sendall(b"Ada\n")
            stream = sock.makefile("rb")
            return [stream.readline(), stream.readline()]

    assert await _thread(talk) == [b"Thank you for connecting\r\n", b"Thank you for connecting, Ada\r\n"]
    assert await _thread(ask, "127.0.0.1", serving.ports[1]) == b"Thank you for connecting\r\n"


# Plain Twisted protocols


@pytest.mark.usefixtures("acme")
@pytest_twisted.ensureDeferred
async def test_a_plain_protocol_has_what_the_service_promises(serve: Serve) -> None:
    serving = serve(TCP, protocol="acme", deadline=0.3, max_connections=1)

    def talk() -> list[bytes]:
        address = ("127.0.0.1", serving.ports[0])
        with socket.create_connection(address, timeout=10) as sock:
            heard = [sock.recv(100)]
            sock.sendall(b"hello")
            heard.append(sock.recv(100))
            with socket.create_connection(address, timeout=10) as refused:
                heard.append(refused.recv(100))
            heard.append(sock.recv(100))  # the FIN at the deadline
        return heard

    assert await _thread(talk) == [b"ready\n", b"HELLO", b"", b""]
    await until(lambda: not serving.service.admission.open)
    assert serving.ledger.greeted == {"tcp": 1}
    assert serving.ledger.refused == {"max-connections": 1}


class TestPlain(Conformance):
    """The kit serves plain protocols too, with a wire that they bring. It tells what they lack."""

    plugin = "acme"
    wire = Wire(messages=[b"a", b"bcd"])

    @pytest.fixture(autouse=True)
    def _installed(self, acme: Path) -> None:
        """Only what is in memory is of interest here."""

    def test_a_peer_that_does_not_read_is_not_buffered_without_end(self) -> None:
        with pytest.raises(AssertionError, match="bytes wait for a peer that does not read"):
            super().test_a_peer_that_does_not_read_is_not_buffered_without_end()


class TestCareful(Conformance):
    """A plain protocol can pass all of it."""

    plugin = "careful"
    wire = Wire(messages=[b"a", b"bcd"])

    @pytest.fixture(autouse=True)
    def _installed(self, acme: Path) -> None:
        """As above."""


class TestCounting(Conformance):
    """Answers may depend on earlier messages."""

    plugin = "counting"

    @pytest.fixture(autouse=True)
    def _installed(self, acme: Path) -> None:
        """As above."""


class TestLong(Conformance):
    """Answers may be longer than what the service keeps, and empty."""

    plugin = "long"

    @pytest.fixture(autouse=True)
    def _installed(self, acme: Path) -> None:
        """As above."""


for _kit in (TestPlain, TestCareful, TestCounting, TestLong):
    for _name in [name for name in dir(Conformance) if name.startswith("test_over_sockets")]:
        setattr(_kit, _name, None)


@pytest.mark.usefixtures("acme")
def test_a_plain_protocol_whose_peer_does_not_read_is_aborted_one_deadline_later() -> None:
    clock = Clock()
    plugin = find_protocol("careful", "", "utf-8")
    assert isinstance(plugin, StreamPlugin)
    peer = MemoryPeer(plugin.stream(context(clock)), clock, reads=False)
    peer.say(b"x" * 100_000)
    clock.pump([DEADLINE * 0.5] * 3)
    assert not peer.reset
    clock.pump([DEADLINE * 0.5] * 2)
    assert peer.reset


# Datagrams


class _Port:
    """The port of a datagram protocol."""

    group = False
    asked = None

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def write(self, datagram: bytes, addr: Any) -> int:
        self.sent.append((datagram, addr))
        return len(datagram)


def _datagrams(name: str) -> tuple[Any, _Port, Context]:
    plugin = find_protocol(name, "", "utf-8")
    assert isinstance(plugin, DatagramPlugin)
    port, given = _Port(), context(Clock(), transport="udp", greeter=TextGreeter())
    protocol: Any = plugin.datagram(given).protocol
    protocol.makeConnection(port)
    return protocol, port, given


@pytest.mark.usefixtures("acme")
def test_a_loop_safe_answer_that_is_not_longer_is_free_and_others_are_paid() -> None:
    peer = ("192.0.2.77", 5000)
    protocol, port, given = _datagrams("mirror")
    for _ in range(100):
        protocol.datagramReceived(b"abc", peer)
    assert port.sent == [(b"cba", peer)] * 100
    assert given.ledger.greeted == {"udp": 100}
    for name in ("careless", "talkative"):
        protocol, port, given = _datagrams(name)
        for _ in range(100):
            protocol.datagramReceived(b"abc", ("192.0.2.78", 5000 + len(name)))
        assert len(port.sent) == 8
        assert given.ledger.refused == {"loop": 92}


@pytest.mark.usefixtures("acme")
def test_what_is_never_answered_never_reaches_a_protocol() -> None:
    protocol, port, given = _datagrams("mirror")
    protocol.datagramReceived(b"abc", ("192.0.2.79", 53))
    port.group = True
    protocol.datagramReceived(b"abc", ("192.0.2.79", 5000))
    protocol.datagramReceived(b"abc", None)
    assert not port.sent
    assert given.ledger.refused == {"port": 1, "group": 1, "no-address": 1}


@pytest.mark.usefixtures("acme")
@pytest_twisted.ensureDeferred
async def test_a_plugin_may_serve_streams_and_datagrams(serve: Serve) -> None:
    serving = serve(TCP, UDP, protocol="acme")
    assert await _thread(ask, "127.0.0.1", serving.ports[1]) == b"olleh"
    assert serving.ledger.greeted == {"udp": 1}


def test_once_greets_and_closes_in_memory_too() -> None:
    clock = Clock()
    peer = MemoryPeer(ONCE.stream(context(clock)), clock)
    peer.clock.advance(DEADLINE)
    assert peer.heard == b"Hello, 127.0.0.1"
    assert peer.closed
