"""The contract of a stream transport: the same promises on Twisted's own and on ours."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.basic import FileSender, LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

MUCH = b"0123456789abcdef" * 512 * 1024  # 8 MiB: more than any socket buffer


def later(seconds: float, call: Callable[[], object]) -> Deferred[object]:
    return deferLater(reactor, seconds, call)


class Scene:
    """A server whose protocol does what the test says, and everything that happened to it, in order."""

    def __init__(self, listening: Any) -> None:
        self._listening = listening
        self.happened: list[str] = []
        self.read = b""
        self.gone: Deferred[None] = Deferred()
        self.protocol: Any = None
        self.made: Callable[[Any], object] = lambda _: None
        self.got: Callable[[Any], object] = lambda _: None

    def note(self, what: str) -> None:
        if what != "data" or self.happened[-1] != "data":  # how bytes are cut is not promised
            self.happened.append(what)

    async def begin(self, kind: type[Protocol] | None = None, factory: Any = None) -> Any:
        if factory is None:
            factory = Factory.forProtocol(kind or Player)
        factory.scene = self
        return await self._listening.connect(self._listening.listen(factory))

    async def end(self) -> list[str]:
        await self.gone.addTimeout(10, reactor)
        return self.happened


class Player(Protocol):
    @property
    def scene(self) -> Scene:
        found: Scene = self.factory.scene
        return found

    def connectionMade(self) -> None:
        self.scene.protocol = self
        self.scene.note("made")
        self.scene.made(self.transport)
        self.scene.note("made returns")

    def dataReceived(self, data: bytes) -> None:
        self.scene.read += data
        self.scene.note("data")
        self.scene.got(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.scene.note(f"lost: {reason.type.__name__}")
        self.scene.gone.callback(None)


@implementer(IHalfCloseableProtocol)
class HalfClosing(Player):
    def readConnectionLost(self) -> None:
        self.scene.note("read side lost")
        self.scene.protocol.on_read_lost()

    def writeConnectionLost(self) -> None:
        self.scene.note("write side lost")


def greet_and_close(transport: Any) -> None:
    transport.write(b"hello ")
    transport.writeSequence([b"you", b"\r\n"])
    transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_data_arrives_and_connection_lost_comes_after_the_callback_returned(everywhere: Any) -> None:
    scene = Scene(everywhere)
    scene.made = greet_and_close
    peer = await scene.begin()
    assert await peer.finish() == (b"hello you\r\n", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_a_reply_in_a_callback_arrives_and_closing_there_waits_for_its_return(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def reply(transport: Any) -> None:
        greet_and_close(transport)
        scene.note("replied")

    scene.got = reply
    peer = await scene.begin()
    peer.transport.write(b"who is there?")
    assert await peer.finish() == (b"hello you\r\n", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "data", "replied", "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_data_written_outside_of_callbacks_arrives_in_order(everywhere: Any) -> None:
    scene = Scene(everywhere)
    peer = await scene.begin()
    await peer.until(0)
    while scene.protocol is None:
        await later(0, lambda: None)
    transport = scene.protocol.transport
    transport.write(b"a")
    transport.write(MUCH)
    transport.write(b"b")
    await later(0, lambda: transport.writeSequence([b"c", b"d"]))
    transport.loseConnection()
    transport.write(b"e")
    assert scene.happened == ["made", "made returns"]
    assert await peer.finish() == (b"a" + MUCH + b"bcde", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_much_pending_data_reaches_a_slow_reader_before_the_close(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def much(transport: Any) -> None:
        transport.write(MUCH)
        transport.loseConnection()
        transport.write(b"the end")

    scene.made = much
    peer = await scene.begin()
    peer.transport.pauseProducing()
    await later(0.1, peer.transport.resumeProducing)
    assert await peer.finish() == (MUCH + b"the end", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "lost: ConnectionDone"]


class Echo(LineReceiver):
    def lineReceived(self, line: bytes) -> None:
        self.sendLine(line[::-1])  # type: ignore[no-untyped-call]
        if line == b"stop":
            assert self.transport is not None
            self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_line_receiver_echoes_much_to_a_peer_that_reads_while_it_writes(everywhere: Any) -> None:
    lines = [b"line %06d of the many" % number for number in range(60_000)]
    peer = await Scene(everywhere).begin(Echo)
    peer.transport.write(b"".join(line + b"\r\n" for line in [*lines, b"stop", b"never echoed"]))
    read, reason = await peer.finish()
    assert read == b"".join(line[::-1] + b"\r\n" for line in [*lines, b"stop"])
    assert reason in {"ConnectionDone", "ConnectionLost"}


@implementer(IPushProducer)
class Pushing:
    """Writes until it is paused, then when it is resumed."""

    def __init__(self, scene: Scene, consumer: Any, pieces: list[bytes]) -> None:
        self._scene = scene
        self._consumer = consumer
        self._pieces = pieces
        self._paused = False
        self.unregister = True

    def run(self) -> None:
        while self._pieces and not self._paused:
            self._consumer.write(self._pieces.pop(0))
        if not self._pieces and self.unregister:
            self.unregister = False
            self._scene.note("unregisters")
            self._consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        self._scene.note("paused")
        self._paused = True

    def resumeProducing(self) -> None:
        self._scene.note("resumed")
        self._paused = False
        self.run()

    def stopProducing(self) -> None:
        self._scene.note("stopped")
        self._pieces.clear()


@pytest_twisted.ensureDeferred
async def test_a_push_producer_is_paused_and_resumed_and_the_close_waits_for_it(everywhere: Any) -> None:
    pieces = [bytes([number]) * 40_000 for number in range(20)]
    scene = Scene(everywhere)

    def produce(transport: Any) -> None:
        producer = Pushing(scene, transport, list(pieces))
        transport.registerProducer(producer, True)
        transport.loseConnection()
        producer.run()

    scene.made = produce
    peer = await scene.begin()
    assert await peer.finish() == (b"".join(pieces), "ConnectionDone")
    pauses = ["resumed", "paused"] * 9
    assert await scene.end() == [
        "made", "paused", "made returns", *pauses, "unregisters", "lost: ConnectionDone",
    ]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_pieces_written_beside_a_producer_arrive_in_order(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def produce(transport: Any) -> None:
        transport.registerProducer(Pushing(scene, transport, []), True)
        transport.writeSequence([b"a", b"b"])
        transport.write(b"c")
        transport.unregisterProducer()
        transport.loseConnection()

    scene.made = produce
    peer = await scene.begin()
    assert await peer.finish() == (b"abc", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "lost: ConnectionDone"]


@implementer(IPullProducer)
class Pulled:
    def __init__(self, scene: Scene, consumer: Any, pieces: list[bytes]) -> None:
        self._scene = scene
        self._consumer = consumer
        self._pieces = pieces

    def resumeProducing(self) -> None:
        self._scene.note("resumed")
        if self._pieces:
            self._consumer.write(self._pieces.pop(0))
        else:
            self._consumer.unregisterProducer()
            self._consumer.loseConnection()

    def stopProducing(self) -> None:
        self._scene.note("stopped")


@pytest_twisted.ensureDeferred
async def test_a_pull_producer_is_resumed_once_for_each_piece_and_once_more(everywhere: Any) -> None:
    pieces = [bytes([number]) * 30_000 for number in range(12)]
    scene = Scene(everywhere)
    scene.made = lambda transport: transport.registerProducer(Pulled(scene, transport, list(pieces)), False)
    peer = await scene.begin()
    assert await peer.finish() == (b"".join(pieces), "ConnectionDone")
    resumed = ["resumed"] * len(pieces)
    assert await scene.end() == ["made", "resumed", "made returns", *resumed, "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_a_file_sender_sends_its_file(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def send(transport: Any) -> None:
        FileSender().beginFileTransfer(io.BytesIO(MUCH), transport).addCallback(lambda _: transport.loseConnection())

    scene.got = send
    peer = await scene.begin()
    peer.transport.write(b"the file, please")
    assert await peer.finish() == (MUCH, "ConnectionDone")


@pytest_twisted.ensureDeferred
async def test_a_producer_is_stopped_when_the_peer_goes(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def produce(transport: Any) -> None:
        producer = Pushing(scene, transport, [])
        producer.unregister = False
        transport.registerProducer(producer, True)

    scene.made = produce
    peer = await scene.begin()
    peer.transport.loseConnection()
    assert await scene.end() == ["made", "made returns", "stopped", "lost: ConnectionDone"]
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_a_paused_transport_reads_on_when_it_is_resumed(everywhere: Any) -> None:
    scene = Scene(everywhere)
    scene.made = lambda transport: transport.pauseProducing()
    peer = await scene.begin()
    peer.transport.write(b"hello?")
    await later(0.05, lambda: None)
    assert scene.happened == ["made", "made returns"]
    scene.protocol.transport.resumeProducing()
    peer.transport.loseConnection()
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionDone"]
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_a_transport_that_is_paused_and_resumed_in_connection_made_reads(everywhere: Any) -> None:
    scene = Scene(everywhere)
    scene.made = lambda transport: (transport.pauseProducing(), transport.resumeProducing())
    peer = await scene.begin()
    peer.transport.write(b"hello?")
    peer.transport.loseConnection()
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionDone"]
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_its_sending_side_keeps_reading(everywhere: Any) -> None:
    scene = Scene(everywhere)

    def half(transport: Any) -> None:
        transport.write(b"hello")
        transport.loseWriteConnection()

    scene.made = half
    peer = await scene.begin(HalfClosing, HalfClosingFactory(lambda scene: scene.protocol.transport.loseConnection()))
    await peer.until(5)
    peer.transport.write(MUCH)
    peer.transport.loseConnection()
    await peer.finish()
    assert await scene.end() == [
        "made", "made returns", "write side lost", "data", "read side lost", "lost: ConnectionDone",
    ]  # fmt: skip
    assert scene.read == MUCH


class HalfClosingFactory(Factory):
    protocol = HalfClosing
    scene: Scene

    def __init__(self, on_read_lost: Callable[[Scene], object]) -> None:
        self._on_read_lost = on_read_lost

    def buildProtocol(self, addr: object) -> HalfClosing:
        protocol = HalfClosing()
        protocol.factory = self
        protocol.on_read_lost = lambda: self._on_read_lost(self.scene)  # type: ignore[attr-defined]
        return protocol


@pytest_twisted.ensureDeferred
async def test_a_server_answers_a_peer_that_has_closed_its_sending_side(everywhere: Any) -> None:
    scene = Scene(everywhere)
    peer = await scene.begin(factory=HalfClosingFactory(lambda scene: greet_and_close(scene.protocol.transport)))
    peer.transport.write(b"that is all")
    peer.transport.loseWriteConnection()
    assert await peer.finish() == (b"hello you\r\n", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "data", "read side lost", "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_closing_after_the_sending_side_is_closed_ends_the_connection(everywhere: Any) -> None:
    scene = Scene(everywhere)
    peer = await scene.begin(factory=HalfClosingFactory(lambda _: None))
    while scene.protocol is None:
        await later(0, lambda: None)
    transport = scene.protocol.transport
    peer.transport.pauseProducing()
    transport.loseWriteConnection()
    await later(0.02, transport.loseConnection)
    assert await scene.end() == ["made", "made returns", "write side lost", "lost: ConnectionDone"]
    peer.transport.resumeProducing()
    assert await peer.finish() == (b"", "ConnectionDone")


@pytest_twisted.ensureDeferred
async def test_an_abort_resets_the_peer_and_drops_what_was_written(listening: Any) -> None:
    scene = Scene(listening)

    def abort(transport: Any) -> None:
        transport.write(b"never sent")
        transport.abortConnection()
        transport.write(b"nor this")

    scene.made = abort
    peer = await scene.begin()
    assert await peer.finish() == (b"", "ConnectionLost")
    assert await scene.end() == ["made", "made returns", "lost: ConnectionAborted"]


@pytest_twisted.ensureDeferred
async def test_an_abort_in_a_callback_or_later_is_not_undone_by_closing(listening: Any) -> None:
    scene = Scene(listening)

    def abort(transport: Any) -> None:
        transport.loseConnection()
        transport.abortConnection()
        transport.loseConnection()

    scene.got = abort
    peer = await scene.begin()
    peer.transport.write(b"go away")
    assert await peer.finish() == (b"", "ConnectionLost")
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionAborted"]


@pytest_twisted.ensureDeferred
async def test_a_deadline_can_abort_a_close_that_is_waiting_for_a_peer_who_does_not_read(listening: Any) -> None:
    scene = Scene(listening)

    def much(transport: Any) -> None:
        transport.write(MUCH)
        transport.loseConnection()

    scene.made = much
    peer = await scene.begin()
    peer.transport.pauseProducing()
    await later(0.05, scene.protocol.transport.abortConnection)
    assert await scene.end() == ["made", "made returns", "lost: ConnectionAborted"]
    peer.transport.resumeProducing()
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_resets_is_a_lost_connection(listening: Any) -> None:
    scene = Scene(listening)
    peer = await scene.begin()
    peer.transport.write(b"first word")
    while not scene.read:
        await later(0, lambda: None)
    peer.transport.abortConnection()
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionLost"]
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_writing_to_a_peer_that_is_gone_is_a_lost_connection(listening: Any) -> None:
    scene = Scene(listening)
    peer = await scene.begin()
    while scene.protocol is None:
        await later(0, lambda: None)
    scene.protocol.transport.pauseProducing()
    peer.transport.abortConnection()
    await peer.finish()
    scene.protocol.transport.write(b"anybody?")
    assert scene.happened == ["made", "made returns"]
    assert await scene.end() == ["made", "made returns", "lost: ConnectionLost"]


@pytest_twisted.ensureDeferred
async def test_a_protocol_that_raises_on_its_input_loses_its_connection(listening: Any, logged_errors: Any) -> None:
    scene = Scene(listening)

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    scene.got = fail
    peer = await scene.begin()
    peer.transport.write(b"compute this")
    assert await scene.end() == ["made", "made returns", "data", "lost: ZeroDivisionError"]
    (logged,) = logged_errors
    assert logged["failure"].type is ZeroDivisionError
    logged_errors.clear()
    await peer.finish()


@pytest.mark.parametrize("pieces", [["text"], [b"bytes, then ", "text"], [b"", 7], [None]])
@pytest_twisted.ensureDeferred
async def test_what_is_not_bytes_is_refused_and_the_connection_goes_on(everywhere: Any, pieces: Any) -> None:
    scene = Scene(everywhere)

    def write(transport: Any) -> None:
        for call, data in ((transport.writeSequence, pieces), (transport.write, pieces[-1])):
            with pytest.raises(TypeError, match=r"^Data must be bytes$"):
                call(data)

    def answer(transport: Any) -> None:
        write(transport)
        greet_and_close(transport)

    scene.made = write
    scene.got = answer
    peer = await scene.begin()
    peer.transport.write(b"who is there?")
    assert await peer.finish() == (b"hello you\r\n", "ConnectionDone")
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionDone"]


def write_text(transport: Any) -> None:
    transport.writeSequence(["text"])


def produce_nothing(transport: Any) -> None:
    transport.registerProducer(None, False)  # a producer that cannot resume


def fail_on_close(transport: Any) -> None:
    transport.loseConnection()
    raise ZeroDivisionError


@pytest.mark.parametrize("fail", [write_text, produce_nothing, fail_on_close])
@pytest.mark.parametrize("callback", ["made", "got"])
@pytest_twisted.ensureDeferred
async def test_an_exception_in_a_callback_ends_the_connection(
    ours: Any, logged_errors: Any, callback: str, fail: Callable[[Any], object]
) -> None:
    scene = Scene(ours)
    setattr(scene, callback, fail)
    peer = await scene.begin()
    peer.transport.write(b"who is there?")
    happened = await scene.end()
    assert happened[-1] in {"lost: TypeError", "lost: AttributeError", "lost: ZeroDivisionError"}
    assert scene.protocol.transport.connected == 0
    assert (await peer.finish())[0] == b""
    (logged,) = logged_errors
    failure = logged.get("log_failure") or logged["failure"]
    assert happened[-1] == f"lost: {failure.type.__name__}"
    logged_errors.clear()


class UpgradingClient(Protocol):
    def __init__(self, contexts: Any) -> None:
        self._contexts = contexts
        self.read = b""
        self.closed: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"upgrade")

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if data == b"go on" and not self.read:
            transport.startTLS(self._contexts)
            transport.write(b"over TLS")
        self.read += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(type(reason.value).__name__)


@pytest_twisted.ensureDeferred
async def test_tls_can_be_started_within_a_connection(listening: Any, server_tls: Any, client_tls: Any) -> None:
    from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

    scene = Scene(listening)

    def converse(transport: Any) -> None:
        if scene.read == b"upgrade":
            transport.write(b"go on")
            transport.startTLS(server_tls)
        elif scene.read == b"upgradeover TLS":
            assert ISSLTransport.providedBy(transport)
            transport.write(MUCH)
            transport.loseConnection()

    scene.got = converse
    factory = Factory.forProtocol(Player)
    factory.scene = scene  # type: ignore[attr-defined]
    port = listening.listen(factory)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await connectProtocol(endpoint, UpgradingClient(client_tls))
    reason = await client.closed.addTimeout(10, reactor)
    assert (len(client.read), client.read[5:] == MUCH) == (5 + len(MUCH), True)
    assert reason == "ConnectionDone"
    assert await scene.end() == ["made", "made returns", "data", "lost: ConnectionDone"]


@pytest_twisted.ensureDeferred
async def test_a_transport_has_the_addresses_of_both_ends(everywhere: Any) -> None:
    scene = Scene(everywhere)
    peer = await scene.begin()
    while scene.protocol is None:
        await later(0, lambda: None)
    transport = scene.protocol.transport
    host = everywhere.ports[0].getHost()
    assert (type(transport.getHost()), transport.getHost()) == (type(host), host)
    assert transport.getPeer() == (peer.transport.getHost() if everywhere.family == "tcp" else type(host)(None))
    assert transport.getHandle().getblocking() is False
    transport.setTcpNoDelay(True)
    assert bool(transport.getTcpNoDelay()) is (everywhere.family == "tcp")
    assert transport.logPrefix().startswith("Player,")
    assert transport.logstr == transport.logPrefix()
    if everywhere.family == "tcp":
        assert repr(transport) == f"<Player #{transport.sessionno} on {host.port}>"
    peer.transport.loseConnection()
    await scene.end()
    assert f"#{transport.sessionno} on " in repr(transport)
    await peer.finish()


@pytest_twisted.ensureDeferred
async def test_calls_on_a_lost_transport_have_no_effect(everywhere: Any) -> None:
    scene = Scene(everywhere)
    peer = await scene.begin()
    peer.transport.loseConnection()
    while scene.protocol is None:
        await later(0, lambda: None)
    transport = scene.protocol.transport
    await scene.end()
    transport.write(b"x")
    transport.writeSequence([b"y"])
    transport.loseConnection()
    transport.abortConnection()
    transport.unregisterProducer()
    stopped = Pushing(scene, transport, [])
    transport.registerProducer(stopped, True)
    transport.connectionLost(Failure(ConnectionAborted()))
    assert scene.happened[-2:] == ["lost: ConnectionDone", "stopped"]
    await peer.finish()


class HandingOver(Player):
    """Gives its connection to another transport, which adopts the descriptor, and closes its own socket."""

    def connectionMade(self) -> None:
        self.scene.note("handed over")
        transport: Any = self.transport
        server: Any = reactor
        server.removeReader(transport)
        server.removeWriter(transport)
        family = transport.socket.family
        heir = Factory.forProtocol(Player)
        heir.scene = self.scene  # type: ignore[attr-defined]
        server.adoptStreamConnection(self.descriptor(transport), family, heir)
        transport.socket.close()

    def descriptor(self, transport: Any) -> int:
        fileno: int = transport.fileno()
        return fileno


class HandingOverTheHandle(HandingOver):
    def descriptor(self, transport: Any) -> int:
        fileno: int = transport.getHandle().fileno()
        return fileno


class HandingOverTheSocket(HandingOver):
    def descriptor(self, transport: Any) -> int:
        fileno: int = transport.socket.fileno()
        return fileno


class HandingOverAfterReading(HandingOver):
    def descriptor(self, transport: Any) -> int:
        transport.pauseProducing()
        transport.resumeProducing()
        reactor.removeReader(transport)
        return super().descriptor(transport)


class HandingOverWhatIsNotSent(HandingOver):
    def descriptor(self, transport: Any) -> int:
        transport.write(b"never sent")
        reactor.removeWriter(transport)
        return super().descriptor(transport)


@pytest.mark.parametrize(
    "kind",
    [HandingOver, HandingOverTheHandle, HandingOverTheSocket, HandingOverAfterReading, HandingOverWhatIsNotSent],
)
@pytest_twisted.ensureDeferred
async def test_a_connection_can_be_handed_over_when_it_is_made(everywhere: Any, kind: type[Protocol]) -> None:
    scene = Scene(everywhere)
    scene.got = greet_and_close
    peer = await scene.begin(kind)
    peer.transport.write(b"who is there?")
    assert await peer.finish() == (b"hello you\r\n", "ConnectionDone")
    assert await scene.end() == ["handed over", "made", "made returns", "data", "lost: ConnectionDone"]
    assert scene.read == b"who is there?"


@pytest_twisted.ensureDeferred
async def test_a_transport_that_was_handed_over_is_over(ours: Any) -> None:
    scene = Scene(ours)
    closed: list[str] = []

    class Watching(HandingOver):
        def connectionMade(self) -> None:
            transport: Any = self.transport
            scene.protocol = self
            transport.call_when_closed(lambda: closed.append("closed"))
            transport.call_if_it_stays(lambda: closed.append("stays"))
            super().connectionMade()
            assert transport.fileno() == -1
            scene.first = transport  # type: ignore[attr-defined]

    peer = await scene.begin(Watching)
    while scene.protocol is None or not closed:
        await later(0, lambda: None)
    first: Any = scene.first  # type: ignore[attr-defined]
    assert (closed, first.connected, first.disconnected, first.fileno()) == (["closed"], 0, 1, -1)
    first.write(b"nobody sends this")
    first.loseConnection()
    first.abortConnection()
    first.stopReading()
    first.startWriting()
    assert repr(first)
    peer.transport.loseConnection()
    await scene.end()
    await peer.finish()
    assert closed == ["closed"]


@pytest_twisted.ensureDeferred
async def test_the_descriptor_is_known_while_the_connection_is_made(everywhere: Any) -> None:
    scene = Scene(everywhere)
    found: list[tuple[bool, bool]] = []

    def look(transport: Any) -> None:
        found.append((transport.fileno() == transport.getHandle().fileno(), os.get_blocking(transport.fileno())))
        transport.loseConnection()

    scene.made = look
    peer = await scene.begin()
    await peer.finish()
    await scene.end()
    assert found == [(True, False)]
    assert scene.protocol.transport.fileno() == -1


@pytest_twisted.ensureDeferred
async def test_a_transport_that_is_resumed_when_it_is_made_is_read_at_once(everywhere: Any) -> None:
    scene = Scene(everywhere)
    readers: list[bool] = []

    def note(transport: Any) -> None:
        fd_set: Any = reactor
        readers.append(transport in fd_set.getReaders())

    def resume(transport: Any) -> None:
        transport.pauseProducing()
        note(transport)
        transport.resumeProducing()
        note(transport)
        transport.pauseProducing()
        note(transport)
        transport.resumeProducing()
        transport.loseConnection()
        note(transport)

    scene.made = resume
    peer = await scene.begin()
    await peer.finish()
    assert await scene.end() == ["made", "made returns", "lost: ConnectionDone"]
    assert readers == [False, True, False, False]
