"""A factory with a constant answer: no protocol is built, and limits, counts and lingering stay what they are."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from greetsvc.net.linger.sweep import AGES, SWEEP, Lingerers
from greetsvc.net.stream.batch import Batch, IConstantAnswer
from greetsvc.net.stream.listener import StreamPort


class Reactor(Clock):
    """Time is the test's, and who reads is called by it."""

    def addReader(self, reader: Any) -> None: ...
    def removeReader(self, reader: Any) -> None: ...
    def addWriter(self, writer: Any) -> None: ...
    def removeWriter(self, writer: Any) -> None: ...


class Asked(Protocol):
    """Says that it was built."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"by a protocol")
        self.transport.loseConnection()


@implementer(IConstantAnswer)
class Answering(Factory):
    """Answers ``data`` unless ``admits`` says no."""

    protocol = Asked
    noisy = False

    def __init__(self, data: bytes | None = b"at once") -> None:
        self.data = data
        self.admits: Callable[[], bool] = lambda: True
        self.open = 0
        self.names: list[Any] = []

    def constant_answer(self) -> bytes | None:
        return self.data

    def admit(self, name: tuple[Any, ...]) -> Callable[[], object] | None:
        if not self.admits():
            return None
        self.open += 1
        return self.leave

    def leave(self) -> None:
        self.open -= 1

    def answered(self, names: Sequence[tuple[Any, ...]]) -> None:
        self.names += names


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def listen(reactor: Reactor) -> Iterator[Callable[..., StreamPort]]:
    """Makes listeners for factories, with lingering close unless told otherwise."""
    lingerers = Lingerers(cast("Any", reactor), lifetime=10.0, max_sockets=1000)
    ports: list[StreamPort] = []

    def make(factory: Factory, family: int = socket.AF_INET, *, linger: bool = True) -> StreamPort:
        sock = socket.socket(family)
        sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else f"\0greetsvc-test-{id(sock)}")
        sock.listen()
        sock.setblocking(False)
        port = StreamPort(sock, cast("Any", factory), reactor, lingerers=lingerers if linger else None)
        port.startListening()
        ports.append(port)
        return port

    yield make
    for port in ports:
        port.stopListening()
    lingerers.stop()
    assert not reactor.getDelayedCalls()


def visit(port: StreamPort, number: int = 1) -> list[bytes]:
    """What so many peers read to the end, after the listener was called once."""
    sock = port.socket
    clients = [socket.socket(sock.family) for _ in range(number)]
    for client in clients:
        client.settimeout(5)
        client.connect(sock.getsockname())
    port.doRead()
    said = []
    for client in clients:
        with client, client.makefile("rb") as file:
            said.append(file.read())
    return said


def test_new_peers_are_answered_without_a_protocol(listen: Any, reactor: Reactor) -> None:
    factory = Answering()
    port = listen(factory)
    assert visit(port, 3) == [b"at once"] * 3
    assert (port.accepted, len(factory.names), factory.open) == (3, 3, 3)
    assert factory.names[0][0] == "127.0.0.1"
    reactor.pump([SWEEP] * 2)
    assert factory.open == 0


class Wrapped(Factory):
    """Has something to say about each connection; in all else it is the factory within."""

    noisy = False

    def __init__(self, inner: Factory) -> None:
        self.inner = inner
        self.seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def buildProtocol(self, addr: Any) -> Any:
        self.seen += 1
        return self.inner.buildProtocol(addr)


def test_a_delegating_wrapper_is_not_bypassed(listen: Any) -> None:
    factory = Wrapped(Answering())
    assert visit(listen(factory), 2) == [b"by a protocol"] * 2
    assert factory.seen == 2


def test_a_connection_counts_until_its_socket_is_closed(listen: Any, reactor: Reactor) -> None:
    factory = Answering()
    port = listen(factory)
    with socket.create_connection(port.socket.getsockname(), timeout=5) as client:
        port.doRead()
        assert client.recv(100) == b"at once"
        reactor.pump([SWEEP] * (AGES[-1] + 2))
        assert factory.open == 1
    port.lingerers.stop()
    assert factory.open == 0


def test_a_protocol_is_built_for_a_peer_that_is_not_admitted(listen: Any) -> None:
    factory = Answering()
    turns = iter([True, False, True])
    factory.admits = lambda: next(turns)
    port = listen(factory)
    assert sorted(visit(port, 3)) == [b"at once", b"at once", b"by a protocol"]
    assert (len(factory.names), port.accepted) == (2, 3)


@pytest.mark.parametrize(
    ("data", "family", "linger"),
    [(None, socket.AF_INET, True), (b"x", socket.AF_UNIX, True), (b"x", socket.AF_INET, False)],
    ids=["nothing to say at once", "unix", "no linger"],
)
def test_a_protocol_is_built_without_a_constant_answer_without_tcp_or_without_lingering(
    listen: Any, data: Any, family: int, linger: bool
) -> None:
    factory = Answering(data)
    port = listen(factory, family, linger=linger)
    assert visit(port) == [b"by a protocol"]
    assert factory.names == []


def test_an_admission_that_raises_ends_its_connection_and_not_the_listener(listen: Any, logged_errors: Any) -> None:
    factory = Answering()
    factory.admits = lambda: 1 / 0 > 0
    port = listen(factory)
    assert visit(port) == [b""]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1
    factory.admits = lambda: True
    assert visit(port) == [b"at once"]


@pytest.mark.parametrize("fails", ["constant_answer", "answered"])
def test_a_factory_that_raises_for_a_batch_does_not_end_the_listener(
    listen: Any, logged_errors: Any, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Answering()
    port = listen(factory)
    with monkeypatch.context() as patch:
        patch.setattr(factory, fails, lambda *_: 1 / 0)
        assert visit(port) == [b"at once" if fails == "answered" else b"by a protocol"]
    assert logged_errors.flush(ZeroDivisionError)
    assert visit(port) == [b"at once"]


@pytest.mark.parametrize("when", ["admit", "answered"])
def test_a_factory_may_stop_its_listener(listen: Any, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Answering()
    port = listen(factory)
    done: Any = getattr(factory, when)
    monkeypatch.setattr(factory, when, lambda what: (port.stopListening(), done(what))[1])
    assert visit(port) == [b"at once"]
    assert not port.listening


class Broken:
    """A socket that takes ``takes`` bytes, or is broken."""

    def __init__(self, takes: int | None) -> None:
        self.takes = takes
        self.ended = False

    def send(self, data: bytes, flags: int) -> int:
        if self.takes is None:
            raise ConnectionResetError
        return self.takes

    def shutdown(self, how: int) -> None:
        self.ended = True


def test_a_protocol_is_built_for_a_broken_socket() -> None:
    factory = Answering()
    batch = Batch(factory, cast("Any", None), b"at once")
    assert not batch.answer(cast("Any", Broken(None)), ("192.0.2.1", 5))
    batch.end()
    assert (factory.open, factory.names) == (0, [])


def test_a_socket_that_took_a_part_of_the_answer_is_not_answered_twice() -> None:
    factory = Answering()
    batch = Batch(factory, cast("Any", None), b"at once")
    with pytest.raises(ConnectionError, match="3 of 7 bytes"):
        batch.answer(cast("Any", Broken(3)), ("192.0.2.1", 5))
    batch.end()
    assert (factory.open, factory.names) == (0, [])
