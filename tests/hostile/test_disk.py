"""A log that cannot be written ends neither the service nor the log."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GREETING = b"Thank you for connecting\r\n"
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def started(port: int) -> None:
    """A service whose log tells nothing answers when it is there."""
    end = time.monotonic() + 10
    while True:
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                return
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("form", ["text", pytest.param("json", marks=pytest.mark.lab)])
def test_with_a_full_disk_under_its_output_the_service_goes_on(child: Any, visitor: Any, form: str) -> None:
    port = free_port()
    with Path("/dev/full").open("wb") as full:
        server = child("--listen", f"tcp:{port}:interface=127.0.0.1", "--log-format", form, stdout=full)
    started(port)
    before = server.rss()
    assert all(visitor.visit(port) == GREETING for _ in range(500))
    assert server.rss() - before < 500_000
    assert server.stop() == 0


def test_when_nobody_reads_its_output_any_more_the_service_goes_on(child: Any, visitor: Any) -> None:
    port = free_port()
    reading, writing = os.pipe()
    server = child("--listen", f"tcp:{port}:interface=127.0.0.1", stdout=writing)
    os.close(writing)
    os.close(reading)
    started(port)
    assert all(visitor.visit(port) == GREETING for _ in range(100))
    assert server.stop() == 0


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.lab
def test_when_the_disk_has_room_again_the_log_goes_on(child: Any, visitor: Any, tiny: Path) -> None:
    port = free_port()
    log = tiny / "log"
    filler = tiny / "filler"
    filler.write_bytes(bytes(60_000))
    options = ("-n", "--pidfile=", "-l", str(log), "greetsvc", "--listen", f"tcp:{port}:interface=127.0.0.1")
    server = child(*options, command=TWISTD)
    started(port)

    def visit_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert visitor.visit(port) == GREETING
            time.sleep(0.02)

    visit_for(1.5)
    assert os.statvfs(tiny).f_bavail == 0
    size = log.stat().st_size
    visit_for(1)
    # A full disk still takes what fits into the last block that the log has.
    assert log.stat().st_size <= size + -size % os.statvfs(tiny).f_bsize
    filler.unlink()
    full = log.stat().st_size
    visit_for(1.5)
    assert log.stat().st_size > full
    assert "Traceback" not in log.read_text()
    assert server.stop() == -15
