"""Behind a real HAProxy the greeting names the true client."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

pytestmark = pytest.mark.lab

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
    bind {host}:{port}
    server greetsvc 127.0.0.1:{to} {send}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Any]:
    """Starts HAProxy between ports of its own and those given with how to send the header; gives its ports."""
    started = []

    def start(*parts: tuple[int, str]) -> list[int]:
        ports = [free_port() for _ in parts]
        text = CONFIG + "".join(
            PART.format(number=number, host="127.0.0.1", port=port, to=to, send=send)
            for number, (port, (to, send)) in enumerate(zip(ports, parts, strict=True))
        )
        config = tmp_path / "haproxy.cfg"
        config.write_text(text)
        started.append(subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL))
        end = time.monotonic() + 10
        for port in ports:
            while True:
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", port)):
                        break
                assert time.monotonic() < end, "HAProxy did not start"
                time.sleep(0.05)
        return ports

    yield start
    for process in started:
        process.kill()
        process.wait(10)


@pytest_twisted.ensureDeferred
async def test_the_true_client_is_named(
    serve: Any, visitor: Any, haproxy: Any, issue: Any, tmp_path: Path, until: Any
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "server.pem").write_bytes(issue("server.example").pem)
    ours = serve(
        "proxy:tcp:0:interface=127.0.0.1",
        rf"proxy:tls:{folder}:port=0:interface=\:\:ffff\:127.0.0.1",
        greeting="{peer_host}:{peer_port} {transport} at {local_port}",
    )
    plain, tls = ours.ports
    sends = ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c")
    parts = [(to, send) for send in sends for to in (plain, tls)]
    ports = await deferToThread(haproxy, *parts)
    # Those that looked whether HAProxy was there may have been passed on.
    await until(lambda: not ours.service.admission.open)

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
async def test_without_its_header_nobody_is_greeted(serve: Any, visitor: Any, haproxy: Any, until: Any) -> None:
    """A proxy that was not told to send it, and one that is not trusted."""
    ours = serve("proxy:tcp:0:interface=127.0.0.1")
    wary = serve("proxy:tcp:0:interface=127.0.0.1", trust_proxy=["127.99.0.0/16"])
    silent, untrusted = await deferToThread(haproxy, (ours.ports[0], ""), (wary.ports[0], "send-proxy"))
    assert await deferToThread(visitor.visit, silent) == b""
    assert await deferToThread(visitor.visit, untrusted) == b""
    assert ours.ledger.refused["proxy-timeout"]
    assert wary.ledger.refused["proxy-untrusted"]
    assert not ours.ledger.visits
    assert not wary.ledger.visits
