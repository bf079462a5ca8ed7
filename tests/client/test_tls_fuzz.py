"""Far ends that send anything during or after a TLS handshake: every probe and load run ends with a reason."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls
from greetsvc.client.load.connections import Connection, LoadResult
from greetsvc.client.load.polling import HANGUP, READ, WRITE, new_poller
from greetsvc.client.load.run import Run
from greetsvc.client.load.tls import TlsStreams, _Session
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.stream.connection import _ProbeFactory, _TlsLayer
from greetsvc.client.probe.stream.state import StreamState
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.target import parse

CLOSE_NOTIFY = bytes.fromhex("15030300020100")


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """One TLS record, well-formed or with a wrong length."""
    kind = draw(st.sampled_from([20, 21, 22, 23, 24]) | st.integers(0, 255))
    version = draw(st.sampled_from([b"\3\1", b"\3\3", b"\3\4"]) | st.binary(min_size=2, max_size=2))
    body = draw(
        st.binary(max_size=40)
        | st.tuples(st.sampled_from([1, 2]), st.integers(0, 255)).map(bytes)  # an alert
        | st.tuples(st.integers(0, 30), st.binary(max_size=20)).map(
            lambda each: bytes([each[0]]) + len(each[1]).to_bytes(3, "big") + each[1]  # a handshake message
        )
    )
    size = draw(st.just(len(body)) | st.integers(0, 0xFFFF))
    return bytes([kind]) + version + size.to_bytes(2, "big") + body


Change = Callable[[bytes], bytes]
"""What is changed in one record of an honest server."""


def flipped(record: bytes, at: int, mask: int) -> bytes:
    at %= len(record)
    return record[:at] + bytes([record[at] ^ mask]) + record[at + 1 :]


CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.just(lambda record: record),
    st.just(lambda record: b""),
    st.just(lambda record: record + record),
    st.tuples(st.integers(0, 5000), st.integers(1, 255)).map(lambda each: lambda record: flipped(record, *each)),
    st.integers(0, 200).map(lambda size: lambda record: record[:size]),
    records().map(lambda other: lambda record: other + record),
    records().map(lambda other: lambda record: record + other),
    st.just(lambda record: CLOSE_NOTIFY + record),
    st.just(lambda record: record + CLOSE_NOTIFY),
)


@define
class FarEnd:
    """A TLS server over memory. Its first records are changed, one by each of ``changes``."""

    context: ssl.SSLContext
    changes: list[Change]
    swap: bool
    incoming: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    server: Any = None
    greeted: bool = False

    def __attrs_post_init__(self) -> None:
        self.server = self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def answer(self, data: bytes) -> list[bytes]:
        """Its answer to this data, in records."""
        self.incoming.write(data)
        with suppress(ssl.SSLError):
            self.server.do_handshake()
            if not self.greeted:
                self.greeted = True
                self.server.write(b"hello")
                self.server.unwrap()
        said = list(_cut(self.outgoing.read()))
        if self.swap:
            said.reverse()
        return [self.changes.pop(0)(each) if self.changes else each for each in said]


def _cut(data: bytes) -> Iterator[bytes]:
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        yield data[:size]
        data = data[size:]


def pieces(parts: list[bytes], size: int) -> Iterator[bytes]:
    """The same bytes, cut anywhere."""
    data = b"".join(parts)
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


FUZZED = {
    "changes": st.lists(CHANGES, max_size=8),
    "swap": st.booleans(),
    "size": st.sampled_from([5, 50, 700, 100_000]),
    "version": st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    "clean": st.booleans(),
    "verify": st.booleans(),
}
FUZZING = settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def far_end(papers: Any, changes: list[Change], swap: bool, version: ssl.TLSVersion) -> FarEnd:
    context = papers.server("good")
    context.minimum_version = context.maximum_version = version
    return FarEnd(context, list(changes), swap)


def trusting(papers: Any, verify: bool) -> ClientTls:
    return ClientTls(ca=papers.path("ca")) if verify else ClientTls(insecure=True)


def load_result(far: FarEnd, tls: ClientTls, size: int, clean: bool) -> LoadResult:
    """The result of a probe of a load run, over a real pair of sockets."""
    poller = new_poller()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        poller.register(ours.fileno(), READ)
        streams = TlsStreams(SocketAddress(socket.AF_INET, ("127.0.0.1", 1)), 1000, poller, tls, "localhost")
        connection = Connection(ours)
        connection.session = _Session(tls, "localhost")
        result = streams.ready(connection, WRITE)
        for _ in range(6):
            said = b""
            with suppress(OSError):
                said = theirs.recv(100_000)
            for piece in pieces(far.answer(said), size):
                with suppress(OSError):
                    theirs.sendall(piece)
                result = result or streams.ready(connection, READ)
                if result is not None:
                    poller.close()
                    return result
        if not clean:
            poller.close()
            return streams.timed_out(connection)
        theirs.close()
        for _ in range(4):
            result = result or streams.ready(connection, READ | HANGUP)
    poller.close()
    assert result is not None, "the server is gone"
    return result


def probe_result(far: FarEnd, tls: ClientTls, size: int, clean: bool) -> Any:
    """The result of a single probe, over a transport in memory."""
    timeline = Timeline(parse("tls:localhost"), ProbeOptions(timeout=5, limit=1000))
    timeline.enter("connect")
    state = StreamState(timeline, tls=True)
    factory = _ProbeFactory(state, Clock())
    creator = tls.creator("localhost", lambda why: setattr(state, "certificate_error", why))
    outer = TLSMemoryBIOFactory(creator, True, factory)
    outer.protocol = _TlsLayer
    outer.noisy = False
    results: list[Any] = []
    factory.result.addBoth(results.append)
    protocol = outer.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    transport = StringTransport(IPv4Address("TCP", "127.0.0.1", 2), IPv4Address("TCP", "127.0.0.1", 1))
    protocol.makeConnection(transport)
    for _ in range(6):
        said = transport.value()
        transport.clear()
        for piece in pieces(far.answer(said), size):
            if not transport.disconnecting:
                protocol.dataReceived(piece)
    protocol.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))
    (result,) = results
    return result


def check_words(words: str | None) -> None:
    assert words
    assert words.isprintable()
    for odd in ("index", "argument", "assert", "object", "("):
        assert not words.startswith(odd)
        assert odd == "(" or odd not in words


@given(**FUZZED)
@example([lambda record: CLOSE_NOTIFY], False, 5, ssl.TLSVersion.TLSv1_2, True, True)
@example([lambda record: record, lambda record: CLOSE_NOTIFY], False, 100_000, ssl.TLSVersion.TLSv1_3, True, True)
@FUZZING
def test_a_probe_of_a_load_run_ends_with_a_reason_whatever_the_far_end_sends(
    papers: Any, changes: list[Change], swap: bool, size: int, version: ssl.TLSVersion, clean: bool, verify: bool
) -> None:
    result = load_result(far_end(papers, changes, swap, version), trusting(papers, verify), size, clean)
    if not result.greeted:
        assert result.phase in ("tls", "greet", "connect")
        assert result.errno
        if result.phase == "tls" and result.words:
            check_words(result.words)


@given(**FUZZED)
@example([lambda record: CLOSE_NOTIFY], False, 5, ssl.TLSVersion.TLSv1_2, True, True)
@example([lambda record: record, lambda record: CLOSE_NOTIFY], False, 100_000, ssl.TLSVersion.TLSv1_3, True, True)
@FUZZING
def test_a_probe_ends_with_a_reason_whatever_the_far_end_sends(
    papers: Any, changes: list[Change], swap: bool, size: int, version: ssl.TLSVersion, clean: bool, verify: bool
) -> None:
    result = probe_result(far_end(papers, changes, swap, version), trusting(papers, verify), size, clean)
    if isinstance(result, Failure):
        assert isinstance(result.value, GreetFailed), result.getTraceback()
        check_words(result.value.strerror)
    else:
        assert result in ("fin", "reset", "timeout")


@given(st.lists(records() | st.just(CLOSE_NOTIFY) | st.binary(max_size=30), max_size=6), st.booleans())
@example([bytes.fromhex("160303000100"), CLOSE_NOTIFY], True)
@FUZZING
def test_both_end_with_a_reason_whatever_records_come(papers: Any, said: list[bytes], clean: bool) -> None:
    class AnySender(FarEnd):
        def answer(self, data: bytes) -> list[bytes]:
            return [said.pop(0)] if said else []

    kept = list(said)
    result = load_result(AnySender(papers.server("good"), [], False), ClientTls(insecure=True), 100_000, clean)
    assert not result.greeted
    said[:] = kept
    failure = probe_result(AnySender(papers.server("good"), [], False), ClientTls(insecure=True), 100_000, clean)
    assert isinstance(failure.value, GreetFailed)
    check_words(failure.value.strerror)


HOSTILE = {
    "close_notify first": CLOSE_NOTIFY,
    "close_notify after an empty record": bytes.fromhex("1603030000") + CLOSE_NOTIFY,
    "close_notify after a byte of handshake": bytes.fromhex("160303000102") + CLOSE_NOTIFY,
    "close_notify twice": CLOSE_NOTIFY * 2,
    "close_notify of TLS 1.0": bytes.fromhex("15030100020100"),
    "warnings without end": bytes.fromhex("15030300020170") * 50,
    "half an alert": CLOSE_NOTIFY[:6],
    "a change of ciphers": bytes.fromhex("140303000101"),
    "data that is not encrypted": bytes.fromhex("170303000568656c6c6f"),
    "a ServerHello that is cut": bytes.fromhex("160303004002000076"),
    "a heartbeat": bytes.fromhex("18030300030100ff"),
    "nothing": b"",
}


def saying(data: bytes) -> Callable[[socket.socket], None]:
    def says(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    return says


@pytest.mark.parametrize("name", HOSTILE)
@pytest_twisted.ensureDeferred
async def test_hostile_bytes_over_a_real_socket_fail_probes_with_a_reason(peers: Any, name: str) -> None:
    target = f"tls:{peers.stream(saying(HOSTILE[name]))}"
    with pytest.raises(GreetFailed) as caught:
        await greet(target, timeout=5, tls=ClientTls(insecure=True))
    assert caught.value.phase == "tls"
    check_words(caught.value.strerror)
    run = await Run(target, duration=0.1, concurrency=2, timeout=5, tls=ClientTls(insecure=True)).go()
    assert run.metrics.lost > 0
    assert run.metrics.greeted == 0
    assert {failure.phase for failure in run.metrics.failures} == {"tls"}
    check_words(run.metrics.failures[0].words)


@pytest.mark.parametrize("data", [CLOSE_NOTIFY, bytes.fromhex("15030300020228"), b"garbage!"])
@pytest_twisted.ensureDeferred
async def test_raw_bytes_after_the_greeting_are_a_note(peers: Any, papers: Any, data: bytes) -> None:
    def says(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"hello")
        socket.socket.sendall(connection, data)

    target = peers.stream(says, tls=papers.server("good"))
    greeting: Greeting = await greet(target, timeout=5, tls=ClientTls(ca=papers.path("ca")))
    assert greeting.data == b"hello"
    assert len(greeting.notes) == 1
    run = await Run(target, duration=0.1, concurrency=1, tls=ClientTls(ca=papers.path("ca"))).go()
    assert run.metrics.greeted > 0
