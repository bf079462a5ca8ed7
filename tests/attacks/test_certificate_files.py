"""Files of certificates that block, never end, take long to read, or are half-written: visitors are greeted on."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from greetsvc.files import LONGEST
from greetsvc.net.tls import contexts
from tests.support.certificates import Issued, issue, with_doubled_extension, with_odd_name
from tests.support.greet import FORKED, FORKED_SERVICE
from tests.support.waiting import until

GREETING = b"Thank you for connecting\r\n"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def begin_lines(path: Path) -> None:
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" * 16_000)


def labels_without_end(path: Path) -> None:
    path.write_bytes(b"-----BEGIN " * 40_000)


def too_long(path: Path) -> None:
    path.write_bytes(b"#" * (LONGEST + 1))


def doubled(path: Path) -> None:
    path.write_bytes(with_doubled_extension())


def odd(path: Path) -> None:
    path.write_bytes(with_odd_name())


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (fifo, "is not a plain file"),
    "endless": (endless, "is not a plain file"),
    "socket": (socket_file, "cannot be read"),
    "begin lines": (begin_lines, "block 1 (line 1) has no end"),
    "labels": (labels_without_end, "block 1 (line 1) has no end"),
    "too long": (too_long, "is longer than"),
    "dangling": (dangling, "cannot be read"),
    "doubled extension": (doubled, "the names in the certificate cannot be read"),
    "odd name": (odd, "the names in the certificate cannot be read"),
}


def served(port: int, name: str, ciphers: str = "") -> bytes:
    """The certificate that a client is shown that asks for this name; it is greeted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as sock,
    ):
        assert sock.recv(100) == GREETING
        return ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True) or b"").encode()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the files more often, so that the tests are fast."""
    monkeypatch.setattr(contexts, "POLL", 0.05)


@cache
def other() -> Issued:
    """What is in a.pem at first."""
    return issue("a", "a.example")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two certificates, for a.example and, in DEFAULT.pem, for b.example."""
    place = tmp_path / "tls"
    place.mkdir()
    (place / "a.pem").write_bytes(other().both_pem)
    (place / "DEFAULT.pem").write_bytes(issue("b", "b.example").both_pem)
    return place


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


@pytest.mark.parametrize("bad", BAD)
@pytest_twisted.ensureDeferred
async def test_a_bad_file_is_named_and_the_others_are_renewed(
    serve: Any, folder: Path, bad: str, log_lines: list[str]
) -> None:
    make, complaint = BAD[bad]
    ours = serve(rf"tls:{folder}:port=0:interface=\:\:ffff\:127.0.0.1")
    (port,) = ours.ports
    before = await deferToThread(served, port, "b.example")
    (folder / "DEFAULT.pem").unlink()
    make(folder / "DEFAULT.pem")
    make(folder / "new.pem")
    renewed = issue("a", "a.example")
    replace(folder / "a.pem", renewed.both_pem)
    await until(lambda: any("reloaded" in line for line in log_lines))
    assert await deferToThread(served, port, "a.example") == renewed.pem
    for name in ("b.example", "unknown.example"):
        assert await deferToThread(served, port, name) == before
    for path in ("DEFAULT.pem", "new.pem"):
        warned = [line for line in log_lines if f"{folder / path}: {complaint}" in line]
        assert len(warned) == 1
        assert warned[0].startswith("TLS keeps the old certificate: ")


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(lambda new: b"", id="nothing"),
        pytest.param(lambda new: b"\n", id="an empty line"),
        pytest.param(lambda new: new.key_pem, id="the key"),
        pytest.param(lambda new: new.pem, id="the certificate"),
        pytest.param(lambda new: new.both_pem[:-20], id="all but the end"),
        pytest.param(lambda new: new.key_pem[:100], id="half the key"),
        pytest.param(lambda new: new.key_pem + issue("c", "c.example").pem, id="another certificate"),
        pytest.param(lambda new: other().key_pem + new.pem, id="the key of a.pem"),
        pytest.param(lambda new: new.pem + other().key_pem, id="the key of a.pem after the certificate"),
        pytest.param(
            lambda new: other().key_pem + new.pem + issue("root", authority=True).pem,
            id="the key of a.pem, and a chain",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_half_written_default_does_not_make_another_one_the_default(
    serve: Any, folder: Path, left: Callable[[Any], bytes], log_lines: list[str]
) -> None:
    ours = serve(rf"tls:{folder}:port=0:interface=\:\:ffff\:127.0.0.1")
    (port,) = ours.ports
    before = await deferToThread(served, port, "unknown.example")
    new = issue("b", "b.example")
    path = folder / "DEFAULT.pem"
    path.write_bytes(left(new))
    await until(lambda: any(f"keeps the old certificate: {path}: " in line for line in log_lines))
    for name in ("b.example", "unknown.example"):
        assert await deferToThread(served, port, name) == before
    assert not any("reloaded" in line for line in log_lines)
    path.write_bytes(new.both_pem)
    await until(lambda: any("reloaded" in line for line in log_lines))
    assert await deferToThread(served, port, "unknown.example") == new.pem


@pytest.mark.parametrize("bad", ["fifo", "endless", "begin lines"])
@pytest.mark.parametrize("option", ["config", "client-ca", "tls", "ssl", "chain", "ca", "cert", "key"])
def test_at_the_start_a_bad_file_is_one_line(tmp_path: Path, option: str, bad: str) -> None:
    make, complaint = BAD[bad]
    path, good = tmp_path / "bad.pem", tmp_path / "good.pem"
    make(path)
    good.write_bytes(issue("good").both_pem)
    server = [FORKED_SERVICE, "--check"]
    client = [FORKED, "tls:127.0.0.1:1"]
    command = {
        "config": [*server, "--config", str(path)],
        "client-ca": [*server, "--client-ca", str(path)],
        "tls": [*server, "--listen", f"tls:{tmp_path}:port=0"],
        "ssl": [*server, "--listen", f"ssl:0:privateKey={path}"],
        "chain": [*server, "--listen", f"ssl:0:privateKey={good}:extraCertChain={path}"],
        "ca": [*client, "--ca", str(path)],
        "cert": [*client, "--cert", str(path)],
        "key": [*client, "--cert", str(good), "--key", str(path)],
    }[option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == (1 if command[0] == FORKED_SERVICE else 3)
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert complaint in line or option == "config"
