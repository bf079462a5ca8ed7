"""What our transport does beyond Twisted's: it lingers, and calls back when the socket is closed."""

from __future__ import annotations

import gc
import socket
import weakref
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from greetsvc.net.linger.sweep import ILingers, Lingerers
from greetsvc.net.stream.facade import ListeningReactor


class Told(Protocol):
    """Does ``act`` when it is greeted, and keeps what happened to it in its factory."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        factory: Any = self.factory
        factory.transport = transport
        transport.call_when_closed(lambda: factory.happened.append("closed"))
        transport.write(b"hello")
        factory.act(transport)

    def dataReceived(self, data: bytes) -> None:
        self.factory.happened.append("data")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.happened.append(type(reason.value).__name__)


class Acting(Factory):
    protocol = Told
    noisy = False
    transport: Any = None

    def __init__(self, act: Any) -> None:
        self.act = act
        self.happened: list[str] = []
        self.protocols: list[weakref.ref[Protocol]] = []

    async def until(self, length: int) -> list[str]:
        for _ in range(500):
            if len(self.happened) >= length:
                break
            await later(0.01)
        return self.happened


def later(seconds: float) -> Any:
    return deferLater(reactor, seconds, lambda: None)


@pytest_twisted.ensureDeferred
async def test_the_socket_lingers_until_the_peer_closes_too(ours: Any, lingerers: Lingerers) -> None:
    factory = Acting(lambda transport: transport.loseConnection())
    port = ours.listen(factory)
    with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=5) as client:
        assert await factory.until(1) == ["ConnectionDone"]
        assert lingerers.count == 1
        await later(0.06)
        client.sendall(b"still here" * 1000)
        await later(0.02)
        assert client.recv(100) == b"hello"
        assert client.recv(100) == b""
        assert (factory.happened, lingerers.count) == (["ConnectionDone"], 1)
    assert await factory.until(2) == ["ConnectionDone", "closed"]
    assert lingerers.count == 0


@pytest_twisted.ensureDeferred
async def test_when_the_peer_closed_first_nothing_lingers(ours: Any, lingerers: Lingerers) -> None:
    factory = Acting(lambda _: None)
    peer = await ours.connect(ours.listen(factory))
    await peer.until(5)
    peer.transport.loseConnection()
    assert await factory.until(2) == ["ConnectionDone", "closed"]
    assert lingerers.count == 0
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_an_aborted_connection_is_closed_at_once(ours: Any, lingerers: Lingerers) -> None:
    factory = Acting(lambda transport: transport.abortConnection())
    peer = await ours.connect(ours.listen(factory))
    await peer.finish()
    assert await factory.until(2) == ["ConnectionAborted", "closed"]
    assert lingerers.count == 0
    factory.transport.call_when_closed(lambda: factory.happened.append("too late, but told"))
    assert factory.happened[2:] == ["too late, but told"]


@pytest_twisted.ensureDeferred
async def test_several_callbacks_can_wait_for_the_close(ours: Any, lingerers: Lingerers) -> None:
    factory = Acting(lambda transport: transport.call_when_closed(again))

    def again() -> None:
        factory.happened.append("again")

    peer = await ours.connect(ours.listen(factory))
    await peer.until(5)
    factory.transport.loseConnection()
    await peer.finish()
    assert await factory.until(3) == ["ConnectionDone", "closed", "again"]
    assert lingerers.count == 0


@pytest_twisted.ensureDeferred
async def test_without_lingerers_closing_is_what_it_is_in_twisted() -> None:
    facade = ListeningReactor(reactor)
    facade.begin()
    factory = Acting(lambda transport: transport.loseConnection())
    port: Any = facade.listenTCP(0, factory, interface="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=5) as client:
        assert await factory.until(2) == ["ConnectionDone", "closed"]
        assert client.recv(100) == b"hello"
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_protocol_can_ask_whether_its_transport_lingers(listening: Any) -> None:
    seen: list[bool] = []

    class Asking(Protocol):
        def connectionMade(self) -> None:
            seen.append(ILingers.providedBy(self.transport))
            assert self.transport is not None
            self.transport.loseConnection()

    peer = await listening.connect(listening.listen(Factory.forProtocol(Asking)))
    await peer.finish()
    assert seen == [listening.name == "ours"]


@pytest.mark.parametrize("many", [2000])
@pytest_twisted.ensureDeferred
async def test_many_small_writes_in_one_callback_are_one_segment(ours: Any, many: int) -> None:
    sends: list[int] = []

    def act(transport: Any) -> None:
        send = transport._send

        def counted(data: bytes, flags: int) -> Any:
            sends.append(len(data))
            return send(data, flags)

        transport._send = counted
        for _ in range(many):
            transport.write(b"x")
        transport.loseConnection()

    factory = Acting(act)
    peer = await ours.connect(ours.listen(factory))
    assert await peer.finish() == (b"hello" + b"x" * many, "ConnectionDone")
    assert sends == [5 + many]
    await factory.until(2)
    del factory.transport


class Staying(Told):
    """Asks its transport for a call if it stays, so that the two refer to each other."""

    def connectionMade(self) -> None:
        self.factory.protocols.append(weakref.ref(self))
        transport: Any = self.transport
        transport.call_if_it_stays(self.stays)
        super().connectionMade()

    def stays(self) -> None: ...


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("stays", [False, True])
async def test_a_connection_that_is_over_leaves_nothing_to_the_garbage_collector(
    ours: Any, lingerers: Lingerers, stays: bool
) -> None:
    factory = Acting(lambda transport: None if stays else transport.loseConnection())
    factory.protocol = Staying
    gc.disable()
    try:
        peer = await ours.connect(ours.listen(factory))
        await peer.until(5)
        protocol = factory.protocols.pop()
        if stays:
            factory.transport.loseConnection()
        factory.transport = None
        await peer.finish()
        await factory.until(2)
        assert protocol() is None
    finally:
        gc.enable()


@pytest_twisted.ensureDeferred
async def test_a_file_made_of_the_handle_does_not_keep_the_socket_open(ours: Any, lingerers: Lingerers) -> None:
    files = []

    def act(transport: Any) -> None:
        files.append(transport.getHandle().makefile("rb"))
        transport.loseConnection()

    factory = Acting(act)
    peer = await ours.connect(ours.listen(factory))
    await peer.finish()
    assert await factory.until(2) == ["ConnectionDone", "closed"]
    assert files[0].raw._sock.fileno() == -1


@pytest_twisted.ensureDeferred
async def test_reading_can_be_paused_after_the_handle_was_asked_for(ours: Any) -> None:
    factory = Acting(lambda transport: (transport.getHandle(), transport.pauseProducing()))
    with socket.create_connection(("127.0.0.1", ours.listen(factory).getHost().port), timeout=5) as client:
        client.sendall(b"unheard")
        await later(0.1)
        assert factory.happened == []
        factory.transport.resumeProducing()
        assert await factory.until(1) == ["data"]
        factory.transport.abortConnection()
    assert await factory.until(3) == ["data", "ConnectionAborted", "closed"]
