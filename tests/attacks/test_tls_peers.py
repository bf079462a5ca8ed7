"""TLS peers that do not finish what they began, send too much, or show no certificate; and certificates on disk."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pytest
import pytest_twisted
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from greetsvc.net.proxy.header import encode_v2
from greetsvc.net.tls.connection import Connection
from greetsvc.net.tls.transport import TlsFailure
from tests.support.certificates import issue
from tests.support.waiting import until, wait_until

GREETING = b"Thank you for connecting\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a server's certificates."""
    place = tmp_path / "tls"
    place.mkdir()
    (place / "server.pem").write_bytes(issue("server.example").both_pem)
    return place


def endpoint(folder: Path) -> str:
    return rf"tls:{folder}:port=0:interface=\:\:ffff\:127.0.0.1"


def context(shown: Path | None = None) -> ssl.SSLContext:
    """The TLS context of a client that accepts any certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if shown is not None:
        made.load_cert_chain(shown)
    return made


def read(sock: ssl.SSLSocket) -> bytes:
    data = b""
    while part := sock.recv(1000):
        data += part
    return data


def client_hello() -> bytes:
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context().wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


@pytest_twisted.ensureDeferred
async def test_unfinished_handshakes_and_closes_end_by_the_deadline(serve: Any, visitor: Any, folder: Path) -> None:
    ours = serve(endpoint(folder), deadline=1, linger=0.3)
    (port,) = ours.ports
    visitor.connect(port)
    visitor.connect(port).sendall(client_hello())
    visitor.connect(port).sendall(client_hello()[:50])

    def handshake() -> ssl.SSLSocket:
        return context().wrap_socket(visitor.connect(port))

    # Greeted, but it never answers the end of TLS.
    unclosed = await deferToThread(handshake)
    assert await deferToThread(unclosed.recv, 100) == GREETING
    await until(lambda: not ours.service.admission.open)
    assert ours.ledger.visits == 1
    unclosed.close()


CLOSE_NOTIFY = bytes.fromhex("15030300020100")
FATAL_ALERT = bytes.fromhex("15030300020228")


def records(message: bytes, size: int = 16384) -> bytes:
    """A handshake message in records of this size."""
    parts = (message[begin : begin + size] for begin in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def long_hello(size: int) -> bytes:
    """A ClientHello of this size, nearly all of it padding (RFC 7685)."""
    hello = client_hello()[5:]
    # The length of the extensions is the first number that counts all the rest.
    extensions = next(at for at in range(39, len(hello)) if int.from_bytes(hello[at : at + 2]) == len(hello) - at - 2)
    missing = size - len(hello) - 4
    padded = hello[extensions + 2 :] + b"\0\x15" + missing.to_bytes(2, "big") + bytes(missing)
    body = hello[4:extensions] + (len(padded) & 0xFFFF).to_bytes(2, "big") + padded
    return records(b"\1" + len(body).to_bytes(3, "big") + body)


def claim(size: int, sent: int) -> bytes:
    """The beginning of a ClientHello that says it has this size."""
    return records((b"\1" + size.to_bytes(3, "big") + client_hello()[9:].ljust(sent, b"\0"))[:sent])


PEERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a request of HTTP": ("tls-handshake", lambda: b"GET / HTTP/1.1\r\n\r\n"),
    "random bytes": ("tls-handshake", lambda: b"\x99" + os.urandom(4000)),
    "a hello with wrong content": ("tls-handshake", lambda: client_hello()[:20] + b"x" * 4000),
    "a second hello": ("tls-handshake", lambda: client_hello() + b"\x16\x03\x03" * 9),
    "a record of data": ("tls-handshake", lambda: client_hello() + bytes.fromhex("17030300020000")),
    "a finished message": ("tls-handshake", lambda: records(b"\x14\0\0\x0c" + bytes(12))),
    "a close_notify after the hello": ("tls-closed", lambda: client_hello() + CLOSE_NOTIFY),
    "nothing but a close_notify": ("tls-handshake", lambda: CLOSE_NOTIFY),
    "half a hello": ("tls-closed", lambda: client_hello()[:50]),
    "a hello": ("tls-closed", client_hello),
    "a hello in records of one byte, without its end": ("tls-closed", lambda: records(client_hello()[5:-1], 1)),
    "a fatal alert after the hello": ("tls-alert", lambda: client_hello() + FATAL_ALERT),
    "nothing but a fatal alert": ("tls-handshake", lambda: FATAL_ALERT),
    "a hello of 20 kB": ("tls-hello-size", lambda: long_hello(20_000)),
    "9 bytes of a hello of 130 kB": ("tls-hello-size", lambda: claim(130_000, 4)),
    "125 kB of a hello of 130 kB": ("tls-hello-size", lambda: claim(130_000, 125_000)),
    "16 kB of a hello that is just short enough, in small records": (
        "tls-hello-size",
        lambda: records(claim(16_380, 16_379)[5:], 7),
    ),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest_twisted.ensureDeferred
async def test_whatever_a_peer_sends_is_counted_once_by_reason_and_logged_with_the_peer(
    serve: Any, visitor: Any, folder: Path, peer: str, log_lines: list[str]
) -> None:
    reason, said = PEERS[peer]
    ours = serve(endpoint(folder), linger=0.3, log_visits="all")
    data = said()
    told = []
    for pieces in ([data], [data[:3], data[3:7], data[7:]]):
        sock = visitor.connect(ours.ports[0])
        told.append(f"Refused {sock.getsockname()}: {reason} (tls)")
        for piece in pieces:
            with suppress(ConnectionError):
                sock.sendall(piece)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        await deferToThread(visitor.read, sock)
    await until(lambda: not ours.service.admission.open)
    assert ours.ledger.refused == {reason: 2}
    assert not ours.ledger.visits
    assert [line for line in log_lines if line.startswith("Refused")] == told


@pytest_twisted.ensureDeferred
async def test_a_long_hello_within_the_bound_is_greeted(serve: Any, visitor: Any, folder: Path) -> None:
    ours = serve(endpoint(folder))
    made = context()
    made.set_alpn_protocols([f"{number:0255}" for number in range(60)])

    def visit() -> bytes:
        with made.wrap_socket(visitor.connect(ours.ports[0]), server_hostname="x" * 60) as sock:
            return read(sock)

    assert await deferToThread(visit) == GREETING
    assert not ours.ledger.refused


@pytest_twisted.ensureDeferred
async def test_peers_that_leave_without_a_byte_are_no_failure_and_silent_ones_are(
    serve: Any, visitor: Any, folder: Path
) -> None:
    ours = serve(endpoint(folder), deadline=0.5)
    visitor.connect(ours.ports[0]).close()
    await until(lambda: not ours.service.admission.open)
    assert not ours.ledger.refused
    for said in (b"", client_hello(), client_hello()[:9]):
        visitor.connect(ours.ports[0]).sendall(said)
    await ours.until_refused("tls-timeout", 3)
    assert ours.ledger.refused == {"tls-timeout": 3}


@st.composite
def a_record(draw: st.DrawFn) -> bytes:
    """One TLS record, well-formed or with a wrong length."""
    kind = draw(st.sampled_from([20, 21, 22, 23, 24]) | st.integers(0, 255))
    version = draw(st.sampled_from([b"\3\1", b"\3\3", b"\3\4"]) | st.binary(min_size=2, max_size=2))
    body = draw(
        st.binary(max_size=40)
        | st.tuples(st.sampled_from([1, 2]), st.integers(0, 255)).map(bytes)  # an alert
        | st.tuples(st.integers(0, 30), st.integers(0, 2**24 - 1), st.binary(max_size=20)).map(
            lambda each: bytes([each[0]]) + each[1].to_bytes(3, "big") + each[2]  # a handshake message
        )
    )
    size = draw(st.just(len(body)) | st.integers(0, 0xFFFF))
    return bytes([kind]) + version + size.to_bytes(2, "big") + body


@pytest.mark.parametrize("honest", [False, True], ids=["foreign", "changed"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest_twisted.ensureDeferred
async def test_records_of_any_kind_cut_anywhere_end_in_a_count(
    serve: Any, visitor: Any, folder: Path, honest: bool, version: ssl.TLSVersion
) -> None:
    """A client whose records are changed, or among which others are, or that sends records of its own making."""
    ours = serve(endpoint(folder), linger=0.05, deadline=5)
    made = context()
    made.maximum_version = version
    made.set_ciphers("ECDHE+AESGCM")
    known = {*get_args(TlsFailure)}
    before = [0, 0]

    def visit(flights: list[list[bytes]], flip: tuple[int, int], size: int) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = made.wrap_bio(incoming, outgoing)
        sock = visitor.connect(ours.ports[0], timeout=5)
        with suppress(OSError):
            for extra in flights:
                with suppress(ssl.SSLError):
                    client.do_handshake()
                    client.write(b"hello")
                said = bytearray(outgoing.read() if honest else b"")
                if said and flip[1]:
                    said[flip[0] % len(said)] ^= flip[1]
                data = bytes(said) + b"".join(extra)
                for begin in range(0, len(data), size):
                    sock.send(data[begin : begin + size])
                if honest and said and not flip[1] and not extra:
                    incoming.write(sock.recv(65536))
            sock.shutdown(socket.SHUT_WR)
        visitor.read(sock)
        visitor.opened.remove(sock)

    @hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @given(
        st.lists(st.lists(a_record(), max_size=3), min_size=1, max_size=3),
        st.tuples(st.integers(0, 4000), st.sampled_from([0, 0, 1, 128])),
        st.sampled_from([1, 5, 700, 65536]),
    )
    @example([[CLOSE_NOTIFY]], (0, 0), 65536)
    @example([[], [CLOSE_NOTIFY]], (0, 0), 1)
    @example([[], []], (0, 0), 65536)
    def handles(flights: list[list[bytes]], flip: tuple[int, int], size: int) -> None:
        visit(flights, flip, size)
        wait_until(lambda: not ours.service.admission.open)
        ended = [ours.ledger.visits, ours.ledger.refused.total()]
        # One count for each connection; none for one that sent nothing.
        assert sum(ended) - sum(before) == 1 or (not honest and not any(map(any, flights)))
        before[:] = ended
        assert set(ours.ledger.refused) <= known

    await deferToThread(handles)
    assert not honest or ours.ledger.visits


@pytest.mark.parametrize(
    ("said", "most"),
    [
        pytest.param(lambda: b"", 16, id="nothing"),
        pytest.param(lambda: claim(130_000, 125_000), 16, id="125 kB of a hello of 130 kB"),
        pytest.param(lambda: claim(16_000, 15_000), 40, id="15 kB of a hello of 16 kB"),
        pytest.param(client_hello, 80, id="a hello"),
        pytest.param(lambda: client_hello() + b"\x17\3\3\x40\0" + bytes(14_000), 112, id="and 14 kB of a record"),
    ],
)
def test_connections_that_do_not_finish_their_handshake_take_little_memory(
    child: Callable[..., Any], visitor: Any, folder: Path, said: Callable[[], bytes], most: int
) -> None:
    server = child("--listen", endpoint(folder), "--log-visits", "summary", "--deadline", "60", "--drain", "0.1")
    (port,) = server.ports()
    number = 150

    def hold(number: int) -> None:
        for _ in range(number):
            with suppress(ConnectionError):
                visitor.connect(port).sendall(said())
        wait_until(lambda: server.descriptors() >= idle + number or "tls-hello-size" in server.said())
        wait_until(server.asleep)

    idle = server.descriptors()
    hold(40)  # what is needed once
    idle, before = server.descriptors(), server.rss()
    hold(number)
    size = (server.rss() - before) / number / 1024
    sys.stdout.write(f"{size:.0f} KiB each\n")
    assert size < most
    assert server.stop() == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 100, 16000])
@pytest_twisted.ensureDeferred
async def test_after_the_greeting_nothing_is_decrypted_and_little_is_read(
    serve: Any, visitor: Any, folder: Path, size: int, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    feed = Connection.bio_write

    def count(self: Connection, data: bytes) -> int:
        fed.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(Connection, "bio_write", count)
    ours = serve(endpoint(folder), linger=1, deadline=60)
    made = context()
    made.maximum_version = version

    def visit() -> tuple[bytes, int]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = made.wrap_bio(incoming, outgoing)
        sock = visitor.connect(ours.ports[0])
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        for _ in range(min(2000, 1_000_000 // size)):
            client.write(bytes(size))
        data, sent = outgoing.read(), 0
        with suppress(ConnectionError):
            while sent < 64 * 1024 * 1024:
                sock.sendall(data)
                sent += len(data)
                if sent == len(data):
                    incoming.write(b"".join(iter(lambda: sock.recv(65536), b"")))
        return client.read(100), sent

    greeting, sent = await deferToThread(visit)
    assert greeting == GREETING
    assert sent < 32 * 1024 * 1024
    assert 0 < sum(fed) <= 16 * 1024
    await until(lambda: not ours.service.admission.open)
    assert not ours.ledger.refused


@pytest_twisted.ensureDeferred
async def test_only_clients_with_a_certificate_of_the_authority_are_greeted(
    serve: Any, visitor: Any, folder: Path, tmp_path: Path
) -> None:
    authority, other = issue("authority", authority=True), issue("authority", authority=True)
    paths = {name: tmp_path / f"{name}.pem" for name in ("authority", "friend", "stranger")}
    paths["authority"].write_bytes(authority.pem)
    paths["friend"].write_bytes(authority.issue("friend").both_pem)
    paths["stranger"].write_bytes(other.issue("stranger").both_pem)
    ours = serve(endpoint(folder), client_ca=str(paths["authority"]), greeting="{certificate}")

    def visit(shown: Path | None) -> bytes:
        with context(shown).wrap_socket(visitor.connect(ours.ports[0])) as sock:
            return read(sock)

    assert await deferToThread(visit, paths["friend"]) == b"friend"
    for shown in (None, paths["stranger"]):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await deferToThread(visit, shown)
    assert ours.ledger.visits == 1
    assert ours.ledger.refused == {"tls-certificate": 2}


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_served_at_the_next_handshake(serve: Any, visitor: Any, folder: Path) -> None:
    ours = serve(endpoint(folder))

    def served() -> bytes | None:
        with context().wrap_socket(visitor.connect(ours.ports[0])) as sock:
            shown = sock.getpeercert(binary_form=True)
            assert read(sock) == GREETING
            return shown

    first = await deferToThread(served)
    new = folder / "new"
    new.write_bytes(issue("server.example").both_pem)
    new.rename(folder / "server.pem")
    await deferToThread(wait_until, lambda: served() != first)


@pytest_twisted.ensureDeferred
async def test_a_proxy_names_the_visitor_before_tls_begins(serve: Any, visitor: Any, folder: Path) -> None:
    ours = serve(f"proxy:{endpoint(folder)}", greeting="{peer_host}:{peer_port} {transport}")

    def visit(header: bytes) -> bytes:
        sock = visitor.connect(ours.ports[0])
        sock.sendall(header)
        with context().wrap_socket(sock) as secured:
            return read(secured)

    header = encode_v2(("203.0.113.7", 4000), ("192.0.2.1", 443))
    assert await deferToThread(visit, header) == b"203.0.113.7:4000 tls"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await deferToThread(visit, b"")
    assert ours.ledger.refused == {"proxy-header": 1}
