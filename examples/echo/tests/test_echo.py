"""The echo passes the tests that every protocol must pass, and ends what would go on for ever."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from greetsvc_echo import TOTAL

from greetsvc.protocols import find_protocol
from greetsvc.testing import Conformance

SECONDS = 10.0


class TestEcho(Conformance):
    plugin = "echo:total=1000000"  # more than its own, as these tests send a lot


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a running service with two bounds that are quick to reach."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "greetsvc", "--protocol", "echo:max=10", "--listen", "tcp:0:interface=127.0.0.1"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as service:
        end = time.monotonic() + SECONDS
        while "Server start at port: " not in log.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        yield int(log.read_text().partition("Server start at port: ")[2].split()[0])
        service.terminate()


def read(port: int, said: bytes) -> list[bytes]:
    """The lines that come back before the connection ends."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer, peer.makefile("rb") as stream:
        peer.sendall(said)
        return stream.readlines()


def test_it_sends_lines_back_until_the_total(port: int) -> None:
    _greeting, *lines, error = read(port, b"hello\n" * (TOTAL + 1))
    assert lines == [b"hello\r\n"] * TOTAL
    assert error == f"error: a connection has {TOTAL} messages\r\n".encode()


def test_a_line_without_an_end_is_not_kept(port: int) -> None:
    assert read(port, b"x" * 1000)[1:] == [b"error: a line is longer than 10 bytes\r\n"]


def test_a_wrong_option_is_one_line() -> None:
    with pytest.raises(ValueError, match="'size=1' is not an option"):
        find_protocol("echo", "size=1", "utf-8")
