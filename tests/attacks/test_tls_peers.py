"""TLS peers that do not finish what they began, that show no certificate, or that come after a renewal."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from greetsvc.net.proxy.header import encode_v2
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


@pytest_twisted.ensureDeferred
async def test_garbage_instead_of_a_handshake_ends_the_connection_and_logs_nothing(
    serve: Any, visitor: Any, folder: Path
) -> None:
    ours = serve(endpoint(folder))
    hello = client_hello()
    for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4000), hello[:20] + b"x" * 400, hello + b"\x16\x03\x03" * 9):
        sock = visitor.connect(ours.ports[0])
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        await deferToThread(visitor.read, sock)
    await until(lambda: not ours.service.admission.open)
    assert not ours.ledger.visits


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
    # The files are looked at once a second at most.
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
