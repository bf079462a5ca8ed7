"""The programs do what they say, as installed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SECONDS = 10.0
ENDPOINT = "tcp:0:interface=127.0.0.1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, str], int]]:
    """Starts one of the programs; the port that it was given."""
    started = []

    def run(name: str, argument: str) -> int:
        log = tmp_path / name
        with log.open("w") as output:
            command = [str(Path(sys.executable).with_name(name)), argument]
            started.append(subprocess.Popen(command, stdout=output, stderr=output))
        end = time.monotonic() + SECONDS
        while "Server start at port: " not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        return int(log.read_text().partition("Server start at port: ")[2].split()[0])

    yield run
    for program in started:
        program.terminate()
        assert program.wait(SECONDS) == 0


def read(port: int, said: bytes) -> bytes:
    """What a client reads to the end after it sent ``said``."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer, peer.makefile("rb") as stream:
        peer.sendall(said)
        return stream.read()


def test_own_words_greets_whoever_is_still_sending(start: Callable[[str, str], int]) -> None:
    port = start("own-words", ENDPOINT)
    assert read(port, b"") == b"Hello 127.0.0.1, 1 of you are here\r\n"
    # More than a socket takes in, and none of it is read by the program.
    assert read(port, b"x" * 1_000_000).startswith(b"Hello 127.0.0.1, ")


def test_own_stream_answers_a_peer_that_is_still_sending(start: Callable[[str, str], int]) -> None:
    port = start("own-stream", ENDPOINT)
    assert read(port, b"hello") == b"HELLO"
    assert read(port, b"x" * 1_000_000).startswith(b"XXXX")


def test_own_datagrams_answers_from_the_address_the_request_was_sent_to(
    start: Callable[[str, str], int], tmp_path: Path
) -> None:
    port = start("own-datagrams", "0")
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.settimeout(SECONDS)
        peer.connect(("127.0.0.2" if sys.platform == "linux" else "127.0.0.1", port))
        peer.send(b"no mark")
        peer.send(b"shout " + b"x" * 600)
        peer.send(b"shout hello")
        assert peer.recv(100) == b"HELLO"
        log = (tmp_path / "own-datagrams").read_text()
    assert f"A request to {'127.0.0.2' if sys.platform == 'linux' else '127.0.0.1'}" in log
    assert "Dropped: oversize" in log
