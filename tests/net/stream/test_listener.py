from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.sockets import UnixPath, ipv6_works, stream_socket, unix_stream_socket
from greetsvc.net.stream.listener import MAX_ACCEPTED, PAUSE, StreamPort

MUCH = 1 << 20


class Once(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.factory.peers.append(self.transport.getPeer())
        self.transport.write(b"hello\r\n")
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.ends.append(type(reason.value).__name__)


class Greeting(Factory):
    protocol = Once
    noisy = False

    def __init__(self) -> None:
        self.peers: list[Any] = []
        self.ends: list[str] = []
        self.life: list[str] = []

    def startFactory(self) -> None:
        self.life.append("started")

    def stopFactory(self) -> None:
        self.life.append("stopped")


class Watched(Clock):
    """Counts what a listener asks of its reactor; time is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.told: list[str] = []

    def addReader(self, reader: Any) -> None:
        self.told.append("addReader")
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.told.append("removeReader")
        self.readers.discard(reader)

    def addWriter(self, _: Any) -> None:
        self.told.append("addWriter")

    def removeWriter(self, _: Any) -> None:
        self.told.append("removeWriter")


@pytest.fixture
def clock() -> Watched:
    return Watched()


@pytest.fixture
def factory() -> Greeting:
    return Greeting()


@pytest.fixture
def dropped() -> list[str]:
    """The reasons for which ``driven`` reported dropped connections."""
    return []


@pytest.fixture
def driven(clock: Watched, factory: Greeting, dropped: list[str]) -> Iterator[StreamPort]:
    """A listener that reads when the test says so."""
    lingering = Lingerers(clock, lifetime=10, max_sockets=10_000)  # type: ignore[arg-type]
    port = StreamPort(stream_socket("127.0.0.1", 0), factory, clock, lingerers=lingering, dropped=dropped.append)
    port.startListening()
    yield port
    port.stopListening()
    lingering.stop()
    assert not clock.getDelayedCalls()


@pytest.fixture
def clients() -> Iterator[Callable[..., list[socket.socket]]]:
    """Connects plain sockets, which the kernel answers before anybody accepts."""
    made: list[socket.socket] = []

    def connect(port: StreamPort, number: int) -> list[socket.socket]:
        host: Any = port.getHost()
        new = [socket.create_connection((host.host, host.port)) for _ in range(number)]
        made.extend(new)
        return new

    yield connect
    for sock in made:
        sock.close()


def everything(client: socket.socket) -> bytes:
    client.settimeout(5)
    read = b""
    while data := client.recv(65536):
        read += data
    return read


def test_a_turn_accepts_a_bounded_batch(driven: StreamPort, clients: Any) -> None:
    clients(driven, MAX_ACCEPTED + 10)
    driven.doRead()
    assert driven.accepted == MAX_ACCEPTED
    driven.doRead()
    assert driven.accepted == MAX_ACCEPTED + 10


def test_a_turn_accepts_the_whole_queue_without_a_failed_accept(driven: StreamPort, clients: Any) -> None:
    asked: list[None] = []

    class Counting(Failing):
        def _accept(self) -> Any:
            asked.append(None)
            return super()._accept()

    driven.socket = Counting(driven.socket)  # type: ignore[assignment]
    for number in (1, 2, 10):
        clients(driven, number)
        before = driven.accepted
        driven.doRead()
        assert driven.accepted - before == number
    if sys.platform == "linux":
        assert len(asked) == driven.accepted


def test_a_connection_that_comes_during_a_turn_is_accepted_in_that_turn(
    driven: StreamPort, factory: Greeting, clients: Any
) -> None:
    class Inviting(Once):
        def connectionMade(self) -> None:
            super().connectionMade()
            if driven.accepted < 5:
                clients(driven, 1)

    factory.protocol = Inviting
    clients(driven, 1)
    driven.doRead()
    assert driven.accepted == 5


def test_unix_listeners_accept_bounded_batches_too(tmp_path: Path, clock: Watched, factory: Greeting) -> None:
    port = _unix(tmp_path / "greet.sock", factory, clock)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_ACCEPTED + 1)]
    for client in clients:
        client.connect(str(tmp_path / "greet.sock"))
    port.doRead()
    assert port.accepted == MAX_ACCEPTED
    port.doRead()
    assert [everything(client) for client in clients] == [b"hello\r\n"] * (MAX_ACCEPTED + 1)
    for client in clients:
        client.close()
    port.stopListening()


def test_the_reactor_is_not_told_of_connections_that_close_in_connection_made(
    driven: StreamPort, clock: Watched, clients: Any
) -> None:
    greeted = clients(driven, 3)
    clock.told.clear()
    driven.doRead()
    assert [everything(client) for client in greeted] == [b"hello\r\n"] * 3
    assert clock.told == []


def test_a_protocol_may_stop_its_listener_and_the_queue_is_still_accepted(
    driven: StreamPort, factory: Greeting, clients: Any
) -> None:
    class Stopping(Once):
        def connectionMade(self) -> None:
            super().connectionMade()
            driven.stopListening()

    factory.protocol = Stopping
    greeted = clients(driven, 3)
    driven.doRead()
    assert [everything(client) for client in greeted] == [b"hello\r\n"] * 3
    assert factory.life == ["started", "stopped"]


def test_stopping_accepts_who_is_in_the_queue_already(driven: StreamPort, factory: Greeting, clients: Any) -> None:
    greeted = clients(driven, 200)
    driven.stopListening()
    assert [everything(client) for client in greeted] == [b"hello\r\n"] * 200
    assert not driven.listening
    assert factory.life == ["started", "stopped"]


def test_listening_starts_the_factory_once_and_accepts_who_is_in_the_queue(
    clock: Watched, factory: Greeting, clients: Any
) -> None:
    port = StreamPort(stream_socket("127.0.0.1", 0), factory, clock)
    (client,) = clients(port, 1)
    assert (clock.readers, factory.life, port.listening) == (set(), [], False)
    port.startListening()
    port.startListening()
    assert (clock.readers, factory.life, port.listening) == ({port}, ["started"], True)
    port.doRead()
    assert everything(client) == b"hello\r\n"
    port.stopListening()


def test_a_listener_that_was_never_started_only_closes_its_socket_when_it_stops(
    clock: Watched, factory: Greeting, clients: Any
) -> None:
    port = StreamPort(stream_socket("127.0.0.1", 0), factory, clock)
    (client,) = clients(port, 1)
    port.stopListening()
    port.stopListening()
    with pytest.raises(ConnectionResetError):
        everything(client)
    assert (factory.peers, factory.life, clock.told, port.fileno()) == ([], [], [], -1)


def test_a_unix_listener_that_was_never_started_removes_its_file(
    tmp_path: Path, clock: Watched, factory: Greeting
) -> None:
    path = tmp_path / "greet.sock"
    StreamPort(unix_stream_socket(str(path)), factory, clock, path=UnixPath(str(path))).stopListening()
    assert not path.exists()


def test_without_a_protocol_the_connection_is_closed_at_once(
    driven: StreamPort, factory: Greeting, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "buildProtocol", lambda _: None)
    (client,) = clients(driven, 1)
    driven.doRead()
    assert everything(client) == b""


@pytest.mark.parametrize("where", ["buildProtocol", "connectionMade", "connectionLost"])
def test_a_protocol_that_raises_ends_its_own_connection_only(
    driven: StreamPort, factory: Greeting, clients: Any, logged_errors: Any, where: str
) -> None:
    def failing(*_: object) -> None:
        raise ZeroDivisionError

    class Failing(Once):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            super().connectionLost(reason)
            if where == "connectionLost":
                failing()

    broken, well = clients(driven, 2)
    if where == "buildProtocol":
        factory.buildProtocol = failing  # type: ignore[assignment,method-assign]
    else:
        factory.protocol = Failing
    if where == "connectionMade":
        Failing.connectionMade = failing  # type: ignore[method-assign,assignment]
    driven._queued = lambda: 0  # one a turn
    driven.doRead()
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    ended = {"buildProtocol": [], "connectionMade": ["ZeroDivisionError"], "connectionLost": ["ConnectionDone"]}
    assert factory.ends == ended[where]
    assert everything(broken) == (b"hello\r\n" if where == "connectionLost" else b"")
    factory.__dict__.pop("buildProtocol", None)
    factory.protocol = Once
    driven.doRead()
    assert everything(well) == b"hello\r\n"


def test_a_protocol_that_raises_in_both_callbacks_does_not_end_the_listener(
    driven: StreamPort, factory: Greeting, clients: Any, logged_errors: Any
) -> None:
    class Failing(Once):
        def connectionMade(self) -> None:
            raise ZeroDivisionError

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            raise LookupError

    broken, well = clients(driven, 2)
    factory.protocol = Failing
    driven._queued = lambda: 0  # one a turn
    driven.doRead()
    assert (len(logged_errors.flush(ZeroDivisionError)), len(logged_errors.flush(LookupError))) == (1, 1)
    assert everything(broken) == b""
    factory.protocol = Once
    driven.doRead()
    assert everything(well) == b"hello\r\n"


@pytest_twisted.ensureDeferred
async def test_a_peer_that_reset_before_it_was_accepted_does_not_end_the_listener(
    ours: Any, factory: Greeting, clients: Any
) -> None:
    gone, well = clients(ours.listen(factory), 2)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    for _ in range(100):
        await later(0.01)
        if len(factory.ends) == 2:
            break
    assert sorted(factory.ends) == ["ConnectionDone", "ConnectionLost"]
    assert everything(well) == b"hello\r\n"


def test_a_protocol_that_only_closes_may_have_a_peer_that_is_gone(
    driven: StreamPort, factory: Greeting, clients: Any
) -> None:
    class Closing(Once):
        def connectionMade(self) -> None:
            assert self.transport is not None
            assert repr(self.transport).startswith("<Closing #1 on ")
            self.transport.loseConnection()

    factory.protocol = Closing
    (gone,) = clients(driven, 1)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    driven.doRead()
    assert factory.ends == ["ConnectionDone"]
    assert driven.lingerers is not None
    assert driven.lingerers.count == 0


class Failing:
    """A listening socket whose accept fails as it is told to, and then works."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self.socket = sock
        self._errors = list(errors)

    def _accept(self) -> Any:
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self.socket._accept()  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH])
def test_a_connection_that_is_gone_is_reported_and_the_next_one_is_accepted(
    driven: StreamPort, dropped: list[str], clients: Any, number: int
) -> None:
    (client,) = clients(driven, 1)
    driven.socket = Failing(driven.socket, number)  # type: ignore[assignment]
    driven.doRead()
    assert (dropped, driven.accepted) == ([f"accept-{errno.errorcode[number]}"], 1)
    assert everything(client) == b"hello\r\n"


def test_a_callback_for_dropped_connections_that_raises_does_not_end_the_listener(
    driven: StreamPort, dropped: list[str], clients: Any, logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (client,) = clients(driven, 1)
    monkeypatch.setattr(driven, "_dropped", lambda _reason: 1 / 0)
    driven.socket = Failing(driven.socket, errno.EPROTO)  # type: ignore[assignment]
    driven.doRead()
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    assert everything(client) == b"hello\r\n"


def test_a_connection_that_is_gone_needs_no_callback(clock: Watched, factory: Greeting, clients: Any) -> None:
    port = StreamPort(stream_socket("127.0.0.1", 0), factory, clock)
    port.startListening()
    (client,) = clients(port, 1)
    port.socket = Failing(port.socket, errno.EPROTO)  # type: ignore[assignment]
    port.doRead()
    assert everything(client) == b"hello\r\n"
    port.stopListening()


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EBADF])
def test_when_the_system_is_out_of_resources_accepting_pauses(
    driven: StreamPort, clock: Watched, clients: Any, number: int, warnings: list[str]
) -> None:
    (client,) = clients(driven, 1)
    driven.socket = Failing(driven.socket, *[number] * 3)  # type: ignore[assignment]
    for _ in range(3):
        driven.doRead()
        assert not clock.readers
        clock.advance(PAUSE)
        assert clock.readers == {driven}
    assert len(warnings) == 1
    driven.doRead()
    assert everything(client) == b"hello\r\n"


def test_a_listener_can_be_stopped_during_a_pause_for_lack_of_memory(
    driven: StreamPort, clock: Watched, warnings: list[str]
) -> None:
    driven.socket = Failing(driven.socket, *[errno.ENOMEM] * 2)  # type: ignore[assignment]
    driven.doRead()
    assert not clock.readers
    driven.stopListening()
    clock.advance(PAUSE)
    assert not clock.readers
    assert len(warnings) == 1


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings of the listener."""
    from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogPublisher

    said: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.warn:
            said.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield said
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.dup(0)  # the lowest that is free: all above are counted as used
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    filling = []
    try:
        while True:
            filling.append(os.dup(0))
    except OSError:
        pass
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filling:
            os.close(fd)


def test_without_descriptors_waiting_connections_are_closed_and_later_ones_accepted(
    driven: StreamPort, dropped: list[str], clock: Watched, clients: Any, warnings: list[str]
) -> None:
    waiting = clients(driven, 5)
    with no_descriptors_left():
        driven.doRead()
        driven.doRead()
    assert [everything(client) for client in waiting] == [b""] * 5
    assert dropped == ["accept-EMFILE"] * 5
    assert clock.readers == {driven}
    reason = "Too many open files; closed 5 waiting connections"
    assert warnings == [f"Cannot accept connections on {driven.getHost()}: {reason}"]
    (client,) = clients(driven, 1)
    driven.doRead()
    assert everything(client) == b"hello\r\n"


def test_without_descriptors_a_turn_closes_a_bounded_number_of_connections(
    driven: StreamPort, dropped: list[str], clients: Any
) -> None:
    clients(driven, MAX_ACCEPTED + 3)
    with no_descriptors_left():
        driven.doRead()
        assert len(dropped) == MAX_ACCEPTED
        driven.doRead()
        assert len(dropped) == MAX_ACCEPTED + 3


def test_without_a_spare_descriptor_connections_wait(
    driven: StreamPort, clock: Watched, clients: Any, warnings: list[str]
) -> None:
    (client,) = clients(driven, 1)
    driven._spare.close()
    with no_descriptors_left():
        driven.doRead()
        assert not clock.readers
    clock.advance(PAUSE)
    driven.doRead()
    assert everything(client) == b"hello\r\n"
    assert len(warnings) == 1


def test_addresses_of_peers_are_those_of_twisted(clock: Watched, factory: Greeting) -> None:
    hosts: list[tuple[str, str, Any, str]] = [("127.0.0.1", "127.0.0.1", IPv4Address, "127.0.0.1")]
    if ipv6_works():
        hosts += [("::1", "::1", IPv6Address, "::1"), ("::", "127.0.0.1", IPv6Address, "::ffff:127.0.0.1")]
    for listens, to, kind, shown in hosts:
        port = StreamPort(stream_socket(listens, 0), factory, clock)
        port.startListening()
        host: Any = port.getHost()
        assert type(host) is kind
        with socket.create_connection((to, host.port)) as client:
            port.doRead()
            peer = factory.peers.pop()
            assert peer == kind("TCP", shown, client.getsockname()[1])
            assert hash(peer) == hash(kind("TCP", shown, client.getsockname()[1]))
            assert repr(peer).startswith(kind.__name__)
        port.stopListening()


def _unix(path: Path, factory: Greeting, clock: Watched) -> StreamPort:
    sock = unix_stream_socket(str(path))
    port = StreamPort(sock, factory, clock, path=UnixPath(str(path)))
    port.startListening()
    return port


def test_a_unix_listener_removes_its_file(tmp_path: Path, clock: Watched, factory: Greeting) -> None:
    path = tmp_path / "greet.sock"
    port = _unix(path, factory, clock)
    assert port.getHost() == UNIXAddress(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        port.doRead()
        assert everything(client) == b"hello\r\n"
    assert [peer.name for peer in factory.peers] == [None]
    port.stopListening()
    assert not path.exists()


def test_a_unix_listener_leaves_the_file_of_another(tmp_path: Path, clock: Watched, factory: Greeting) -> None:
    path = tmp_path / "greet.sock"
    first = _unix(path, factory, clock)
    path.unlink()
    second = _unix(path, factory, clock)
    first.stopListening()
    assert path.is_socket()
    second.stopListening()
    assert not path.exists()


def test_no_call_blocks_when_the_process_has_a_default_timeout(driven: StreamPort, clients: Any) -> None:
    socket.setdefaulttimeout(3)
    try:
        (client,) = clients(driven, 1)
        driven.doRead()
    finally:
        socket.setdefaulttimeout(None)
    assert everything(client) == b"hello\r\n"


def test_a_stopping_reactor_closes_the_listener(driven: StreamPort, factory: Greeting) -> None:
    driven.connectionLost(connectionDone)
    driven.connectionLost(connectionDone)
    assert (driven.listening, factory.life) == (False, ["started", "stopped"])
    assert "not listening" in repr(driven)
    assert driven.logPrefix().endswith("Greeting")


def later(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


def send_much_then_read(port: int) -> bytes:
    """A client that is sending when it is greeted, and reads only afterwards."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"x" * MUCH)
        return everything(client)


@pytest_twisted.ensureDeferred
async def test_every_client_that_is_still_sending_reads_the_whole_greeting_and_sees_no_error(
    ours: Any, lingerers: Lingerers
) -> None:
    factory = Greeting()
    port = ours.listen(factory)
    clients = [deferToThread(send_much_then_read, port.getHost().port) for _ in range(50)]
    assert [await client.addTimeout(20, reactor) for client in clients] == [b"hello\r\n"] * 50
    assert factory.ends == ["ConnectionDone"] * 50
    for _ in range(100):
        if not lingerers.count:
            break
        await later(0.02)
    assert lingerers.count == 0
