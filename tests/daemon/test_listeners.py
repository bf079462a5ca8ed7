"""Listeners: endpoints that listen only after a while or come from a plugin, and warnings at the start."""

from __future__ import annotations

import errno
import gc
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, evolve, field
from twisted.internet import endpoints
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from zope.interface import directlyProvides, providedBy

from greetsvc import wire
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.start_checks import sample_greeting
from greetsvc.daemon.tap import Options, makeService
from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.datagram import port
from greetsvc.visit import Visit

real_reactor: Any = global_reactor
UDP = "udp:0:interface=127.0.0.1"
HELLO = b"Thank you for connecting\r\n"


class Driven:
    """The real reactor with a clock that the test turns."""

    def __init__(self, clock: Clock) -> None:
        self.callLater, self.seconds = clock.callLater, clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(real_reactor, name)


class Reactor:
    """The real one, but that it only notes that it was told to stop."""

    def __init__(self) -> None:
        self.stopped = 0
        directlyProvides(self, providedBy(real_reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(real_reactor, name)

    def stop(self) -> None:
        self.stopped += 1


@define
class Late:
    """An endpoint that listens when it is told to, as one that first has to ask the network."""

    reactor: Any
    foreign: bool = False
    answer: Deferred[Any] = field(factory=Deferred)
    factory: Any = None

    def listen(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        return self.answer

    def succeed(self) -> None:
        reactor = real_reactor if self.foreign else self.reactor
        self.answer.callback(reactor.listenTCP(0, self.factory, interface="127.0.0.1"))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """The endpoints made of the strings ``late:`` and ``foreign:``, as a plugin would make them."""
    made: list[Late] = []

    def from_string(reactor: Any, text: str) -> Late:
        made.append(Late(reactor, foreign=text.startswith("foreign")))
        return made[-1]

    monkeypatch.setattr(endpoints, "serverFromString", from_string)
    return made


def _service(*listen: str, reactor: Any = None) -> GreetingService:
    service = GreetingService(settings({}, listen), reactor)
    service.bind()
    return service


def _reads(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        said = b""
        while piece := client.recv(100):
            said += piece
        return said


@pytest.mark.parametrize("kind", ["late:x", "foreign:x"])
@pytest.mark.parametrize("started_first", [True, False])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_listens_later_is_served_from_then_on(
    kind: str, started_first: bool, late: list[Late]
) -> None:
    service = _service(kind)
    assert service.describe() == [f"{kind[:-2]} not known yet: {kind} says text:Thank you for connecting\\r\\n"]
    if not started_first:
        late[0].succeed()
    service.startService()
    if started_first:
        late[0].succeed()
    one: Any = service._listening[0]
    port = one.spots()[0].port
    assert await deferToThread(_reads, port).addTimeout(5, real_reactor) == HELLO
    await service.stopService()
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(_reads, port).addTimeout(5, real_reactor)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            CannotListenError("192.0.2.1", 5, OSError(99, "Cannot assign")),
            "cannot listen on 192.0.2.1, port 5: Cannot assign",
        ),
        (RuntimeError("the tunnel\nis down"), "the tunnel is down"),
        (ValueError(), "ValueError"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_fails_later_stops_the_reactor_with_one_line(
    error: Exception, says: str, late: list[Late], log_lines: list[str], logged_errors: Any
) -> None:
    reactor = Reactor()
    service = _service("late:x", "udp:0:interface=127.0.0.1", reactor=reactor)
    service.startService()
    late[0].answer.errback(error)
    await deferLater(real_reactor, 0, lambda: None)
    assert reactor.stopped == 1
    critical = [line for line in log_lines if line.startswith("greetsvc: ")]
    assert critical == [f"greetsvc: --listen late:x: {says}"]
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_reload_keeps_a_listener_whose_sockets_are_not_ours(late: list[Late], log_lines: list[str]) -> None:
    service = _service("foreign:x")
    service.startService()
    late[0].succeed()
    before = list(service._listening)
    for number in range(2):
        service.reread = partial(settings, {"greeting": f"{number}"}, ["foreign:x", UDP])
        service.reload()
        assert service._listening[0] is before[0]
        assert "foreign:x keeps its settings until a restart" in log_lines
    port = before[0].spots()[0].port
    assert await deferToThread(_reads, port).addTimeout(5, real_reactor) == HELLO
    service.reread = lambda: settings({}, [UDP])
    service.reload()
    assert service.last_reload_ok
    await deferLater(real_reactor, 0, lambda: None)
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(_reads, port).addTimeout(5, real_reactor)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_an_endpoint_of_a_reload_that_fails_later_does_not_stop_the_others(
    late: list[Late], log_lines: list[str]
) -> None:
    reactor = Reactor()
    service = _service(UDP, reactor=reactor)
    service.startService()
    service.reread = lambda: settings({}, [UDP, "late:x"])
    service.reload()
    late[0].answer.errback(OSError(99, "no tunnel"))
    assert log_lines[-1] == "--listen late:x: no tunnel"
    assert not reactor.stopped
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_fails_at_once_is_refused(late: list[Late], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Late, factory: Any) -> Deferred[Any]:
        self.answer.errback(RuntimeError("no tunnel"))
        return self.answer

    monkeypatch.setattr(Late, "listen", fails)
    with pytest.raises(ConfigError, match=r"^--listen late:x: no tunnel$"):
        _service("udp:0:interface=127.0.0.1", "late:x")


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_raises_is_refused(late: list[Late], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_reactor: Any, text: str) -> Any:
        raise KeyError(text)

    monkeypatch.setattr(endpoints, "serverFromString", fails)
    with pytest.raises(ConfigError, match=r"^--listen late:x: 'late:x'$"):
        _service("late:x")


@pytest.mark.parametrize("answers", [True, False])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_does_not_listen_yet_is_cancelled_on_stop_whatever_it_reports(
    answers: bool, late: list[Late], log_lines: list[str]
) -> None:
    reactor = Reactor()
    service = _service("late:x", reactor=reactor)
    if answers:
        late[0].answer._canceller = lambda answer: answer.errback(ConnectionError("gave up"))
    service.startService()
    await service.stopService()
    await deferLater(real_reactor, 0, lambda: None)
    assert not reactor.stopped
    assert not [line for line in log_lines if line.startswith("greetsvc: ")]


def test_check_cancels_an_endpoint_that_does_not_listen_yet(
    late: list[Late], capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options()
    options.parseOptions(["--listen", "late:x", "--check"])
    with pytest.raises(SystemExit):
        makeService(options)
    assert capsys.readouterr().out.startswith("late not known yet: late:x says ")
    assert late[0].answer.called


def _warnings(listen: str = UDP, **options: Any) -> list[str]:
    service = GreetingService(settings(options, [listen]), real_reactor)
    service.bind()
    try:
        return service.describe()[1:]
    finally:
        service.unbind()


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        ("GREET/1 x", "answers no request: the greeting begins with 'GREET/1 ', which no answer may"),
        ("x" * 1200, "answers no request: the greeting has 1200 bytes, and an answer at most 1199"),
        ("x" * 513, "answers marked requests only: the greeting has 513 bytes, and an answer to others 512"),
    ],
)
def test_a_udp_listener_that_cannot_answer_has_a_warning(greeting: str, why: str) -> None:
    (line,) = _warnings(greeting=greeting)
    assert line.startswith("udp port: ")
    assert line.endswith(why)


def test_a_udp_listener_that_depends_on_the_visit_is_judged_by_a_made_up_one() -> None:
    (line,) = _warnings(greeting="{peer_host}" + "x" * 5000)
    assert line.endswith(
        "may answer no request: the greeting for a made-up visit has 5009 bytes, and an answer at most 1199"
    )


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp:{}", "tcp:{}"),
        ("tcp:{}:interface=127.0.0.1", "tcp:{}"),
        ("udp:{}", "udp:{}:interface=127.0.0.1"),
        ("unix:{}/greet.sock", "unix:{}/greet.sock"),
        ("unix:{}/greet.sock", "unixgram:{}/greet.sock"),
    ],
)
def test_a_listener_that_takes_the_place_of_another_names_it(
    first: str, second: str, check: bool, free_port: int, tmp_path: Path
) -> None:
    place = tmp_path if "unix" in first else free_port
    listen = [first.format(place), second.format(place)]
    service = GreetingService(settings({}, listen), real_reactor)
    with pytest.raises(
        ConfigError, match=rf"^--listen {listen[1]}: .*: Address already in use, by --listen {listen[0]}$"
    ):
        service.bind(check=check)
    assert not list(tmp_path.glob("greet.sock"))


@pytest.mark.parametrize("check", [False, True])
def test_an_admin_site_in_the_place_of_a_listener_names_it(check: bool, free_port: int) -> None:
    service = GreetingService(settings({"admin": f"tcp:{free_port}"}, [f"tcp:{free_port}"]), real_reactor)
    with pytest.raises(ConfigError, match=f"^--admin .*: Address already in use, by --listen tcp:{free_port}$"):
        service.bind(check=check)


class _Made:
    """A greeter with these needs, which says what it finds."""

    def __init__(self, says: Any, *needs: str) -> None:
        self.needs = frozenset(needs)
        self._says = says

    def greet(self, visit: Visit) -> bytes:
        said: bytes = self._says(visit)
        return said


@pytest.mark.parametrize(
    ("greeter", "hidden"),
    [
        (_Made(lambda visit: visit.peer.host.encode()), "peer"),
        (_Made(lambda visit: f"{visit.number} {visit.when}".encode()), "number, when"),
        (_Made(lambda visit: str(visit.number).encode(), "peer"), "number"),
        (_Made(lambda visit: visit.path.syn or b"x", "tls"), "path"),
        (_Made(lambda visit: visit.peer.host.encode(), "peer"), ""),
        (_Made(lambda visit: visit.peer.host.encode(), "name"), ""),  # the peer is known in every visit
        (_Made(lambda visit: visit.transport.encode()), ""),
        (_Made(lambda _visit: b"hello"), ""),
    ],
)
def test_a_greeter_that_hides_what_it_needs_has_a_warning(greeter: Any, hidden: str) -> None:
    (given,) = settings({}, ["tcp:0:interface=127.0.0.1"]).listeners
    warning = sample_greeting(evolve(given, greeter=greeter, greeter_option="made")).warning
    assert warning.partition("the greeter 'made' reads ")[2].partition(", which its needs do not name")[0] == hidden


def test_a_listener_that_can_answer_has_no_warning(tmp_path: Any) -> None:
    assert _warnings(greeting="x" * 512) == []
    assert _warnings(greeting="x" * 5000, listen="tcp:0:interface=127.0.0.1") == []
    assert _warnings(greeting="x" * 5000, listen=f"unixgram:{tmp_path / 'greet.sock'}") == []


def test_a_file_that_is_too_long_is_noticed_too(tmp_path: Any) -> None:
    (tmp_path / "motd").write_bytes(b"x" * 2000)
    (line,) = _warnings(greeter=f"file:{tmp_path / 'motd'}")
    assert "the greeting has 2000 bytes" in line


class Saying:
    """A greeter that says what it is told to, or raises it."""

    needs: frozenset[str] = frozenset()

    def __init__(self, what: Any) -> None:
        self.what = what
        self.visits: list[Any] = []

    def greet(self, visit: Any) -> Any:
        self.visits.append(visit)
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


def _greeted_by(greeter: Saying, *listen: str) -> GreetingService:
    found = settings({"greeting": "hello"}, listen)
    listeners = tuple(evolve(one, greeter=greeter, greeter_option="saying") for one in found.listeners)
    return GreetingService(evolve(found, listeners=listeners), real_reactor)


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("by zero"), KeyError("x"), OSError(2, "gone", "/x"), ValueError("a\nb"), SystemExit(3)],
)
def test_a_greeter_that_raises_at_the_start_has_a_warning_and_is_no_error(error: BaseException) -> None:
    service = _greeted_by(greeter := Saying(error), UDP, "tcp:0:interface=127.0.0.1")
    service.bind()
    assert service.describe()[-1] == f"--listen {UDP}: the greeter failed for a made-up visit: {reason_of(error)}"
    assert len(greeter.visits) == 1
    service.unbind()


@pytest.mark.parametrize("said", ["hello", None, 5, bytearray(b"hello"), "x" * 5000])
def test_a_greeter_that_returns_no_bytes_is_refused_and_nothing_is_bound(said: Any, tmp_path: Path) -> None:
    service = _greeted_by(Saying(said), f"unix:{tmp_path / 'x'}")
    with pytest.raises(ConfigError, match=r"the greeter 'saying' returned .*, not bytes"):
        service.bind()
    assert not list(tmp_path.iterdir())


async def _later() -> bytes:
    return b"hello"


@pytest.mark.filterwarnings("error")
def test_a_greeter_that_is_a_coroutine_is_refused_without_a_warning_of_python() -> None:
    with pytest.raises(ConfigError, match=r"returned <coroutine .*, not bytes"):
        _greeted_by(Saying(_later()), UDP).bind()
    gc.collect()


@pytest_twisted.ensureDeferred
async def test_the_log_has_the_warning_when_the_listener_starts(log_lines: list[str]) -> None:
    service = GreetingService(settings({"greeting": "x" * 1200}, [UDP]), real_reactor)
    service.bind()
    service.startService()
    assert any("answers no request" in line for line in log_lines)
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_dropped_datagrams_are_in_the_log_within_a_second_without_any_visit(log_lines: list[str]) -> None:
    clock = Clock()
    service = GreetingService(settings({}, ["udp:0:interface=127.0.0.1"]), Driven(clock))
    service.bind()
    service.startService()
    one: Any = service._listening[0]
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", one.udp_port))
        for _ in range(12):
            client.send(bytes(wire.MAX_REQUEST + 1))
    one._port.drain()
    assert service.ledger.refused == {"oversize": 12}
    clock.advance(1)
    assert log_lines[-1] == "Refused 12 in a second: oversize 12"
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_datagrams_that_came_before_the_start_are_answered_and_not_read_earlier() -> None:
    service = _service("udp:0:interface=127.0.0.1")
    one: Any = service._listening[0]
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", one.udp_port))
        client.send(b"x")
        client.setblocking(False)
        await deferLater(real_reactor, 0, lambda: None)
        assert not service.ledger.visits
        with pytest.raises(BlockingIOError):
            client.recv(100)
        client.settimeout(5)
        service.startService()
        assert await deferToThread(client.recv, 100).addTimeout(5, real_reactor) == HELLO
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_datagram_listeners_that_never_start_leave_no_socket_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    service = _service("udp:0:interface=127.0.0.1", f"unixgram:{path}")
    assert path.exists()
    ports: list[Any] = [one._port for one in service._listening]  # type: ignore[union-attr]
    service.unbind()
    assert not path.exists()
    assert [port.fileno() for port in ports] == [-1, -1]
    assert all(port.protocol.transport is None for port in ports)


def test_a_datagram_port_that_cannot_open_what_it_needs_is_one_line_and_leaves_nothing_bound(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(port, "_is_one_host", none_left)
    service = GreetingService(settings({}, [f"udp:{free_port}:interface=127.0.0.1"]))
    with pytest.raises(ConfigError, match=f"^--listen udp:{free_port}:interface=127.0.0.1: Too many open files$"):
        service.bind()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", free_port))
