"""Behind a real HAProxy the greeting names the true client."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.certificates import issue
from tests.support.process import Programs

CONFIG = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
"""
PART = """
listen part{number}
    bind fd@{fd}
    server greetsvc 127.0.0.1:{to} {send}
"""


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Any]:
    """Starts HAProxy in front of the ports given, each with how to send the header; returns its own ports.

    It inherits sockets that listen already (``fd@``), so that no port has to be chosen and nobody has to wait.
    """
    programs = Programs()

    def start(*parts: tuple[int, str]) -> list[int]:
        config = tmp_path / "haproxy.cfg"
        with ExitStack() as stack:
            listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in parts]
            descriptors = [listener.fileno() for listener in listeners]
            config.write_text(
                CONFIG
                + "".join(
                    PART.format(number=number, fd=fd, to=to, send=send)
                    for number, (fd, (to, send)) in enumerate(zip(descriptors, parts, strict=True))
                )
            )
            programs.start(["haproxy", "-db", "-f", str(config)], tmp_path, pass_fds=descriptors)
            return [listener.getsockname()[1] for listener in listeners]

    yield start
    programs.kill()


@pytest_twisted.ensureDeferred
async def test_the_greeting_names_the_true_client(serve: Any, visitor: Any, haproxy: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "server.pem").write_bytes(issue("server.example").both_pem)
    ours = serve(
        "proxy:tcp:0:interface=127.0.0.1",
        rf"proxy:tls:{folder}:port=0:interface=\:\:ffff\:127.0.0.1",
        greeting="{peer_host}:{peer_port} {transport} at {local_port}",
    )
    plain, tls = ours.ports
    sends = ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c")
    parts = [(to, send) for send in sends for to in (plain, tls)]
    ports = haproxy(*parts)

    def visit(port: int, secured: bool, source: str) -> tuple[bytes, bytes]:
        sock = visitor.connect(port, source=source)
        host, number = sock.getsockname()
        if secured:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        expected = f"{host}:{number} {'tls' if secured else 'tcp'} at {port}"
        with sock:
            said = b""
            while part := sock.recv(1000):
                said += part
        return said, expected.encode()

    for port, (to, _) in zip(ports, parts, strict=True):
        said, expected = await deferToThread(visit, port, to == tls, f"127.77.{port % 200}.5")
        assert said == expected


@pytest_twisted.ensureDeferred
async def test_nobody_is_greeted_without_a_trusted_header(serve: Any, visitor: Any, haproxy: Any) -> None:
    """One proxy sends no header, the other is not trusted."""
    ours = serve("proxy:tcp:0:interface=127.0.0.1")
    wary = serve("proxy:tcp:0:interface=127.0.0.1", trust_proxy=["127.99.0.0/16"])
    silent, untrusted = haproxy((ours.ports[0], ""), (wary.ports[0], "send-proxy"))
    assert await deferToThread(visitor.visit, silent) == b""
    assert await deferToThread(visitor.visit, untrusted) == b""
    assert ours.ledger.refused["proxy-timeout"]
    assert wary.ledger.refused["proxy-untrusted"]
    assert not ours.ledger.visits
    assert not wary.ledger.visits
