"""A signal ends the command soon, whatever it does, and what programs read says that it was stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import pytest

from tests.support.greet import FORKED
from tests.support.peers import Peers
from tests.support.waiting import wait_until

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Visited:
    """A peer that says something, and then waits; ``event`` is set when it was visited."""

    def __init__(self, peers: Peers, said: bytes = b"") -> None:
        self.event, self.over, self.said = Event(), peers.over, said

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self.said)
        self.event.set()
        self.over.wait(20)


@contextmanager
def started(*arguments: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [FORKED, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("options", "out"),
    [
        ([], ""),
        (["--json"], '"error": "stopped before a greeting came"'),
        (["--nagios"], "GREET CRITICAL - 0 of 0 greeted by {}: greet: stopped before a greeting came | time=U;"),
        (["--healthcheck", "-4"], ""),
        (["--hold", "9"], ""),
        (["--hold", "9", "--json"], '"error": "stopped before a greeting came"'),
        (["--hold", "9", "--nagios"], "GREET CRITICAL - {}: greet: stopped before a greeting came | silence=U;"),
        (["-c", "3"], "0 sent, 0 greeted, 0 lost"),
        (["--duration", "30", "--concurrency", "1"], "stopped after "),
    ],
    ids=lambda value: " ".join(value) or "text" if isinstance(value, list) else "",
)
def test_what_is_stopped_while_it_waits_says_so_to_programs(
    peers: Peers, options: list[str], out: str, number: int, twice: bool
) -> None:
    peer = Visited(peers)
    target = peers.stream(peer)
    with started("-t", "20", *options, target) as running:
        assert peer.event.wait(20)
        running.send_signal(number)
        if twice:
            running.send_signal(number)
        said, complained = running.communicate(timeout=20)
    assert running.returncode == 2
    shown = f"tcp:{target}"
    assert out.format(shown) in said
    assert (complained, bool(said)) == ("", bool(out))
    if "--json" in options:
        assert json.loads(said)["ok"] is False


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("options", [[], ["--json"], ["--nagios"]], ids=" ".join)
def test_what_is_stopped_while_a_pattern_is_matched_gives_its_result(
    peers: Peers, options: list[str], number: int
) -> None:
    greeted = Event()

    def say(connection: socket.socket) -> None:
        connection.sendall(b"a" * 40 + b"!\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the client closes, and matches then
        greeted.set()

    with started("-t", "5", "--expect", "^(a+)+$", *options, peers.stream(say)) as running:
        assert greeted.wait(20)
        running.send_signal(number)
        running.send_signal(number)
        said, complained = running.communicate(timeout=20)
    assert running.returncode == 1
    assert "matching took too long" in said + complained
    assert "Traceback" not in complained


def waiting_in(pipe: int) -> int:
    """Bytes that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "not blocking"])
def test_a_reader_that_takes_nothing_does_not_keep_it_from_ending(peers: Peers, number: int, blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    peer = peers.stream(lambda connection: connection.sendall(b"x" * 63_000 + b"\r\n"))
    try:
        with started("-c", "0", "-i", "0", "--json", peer, stdout=writing) as running:
            wait_until(lambda: waiting_in(reading) > 65_000)  # of 65,536, in the midst of the second line
            running.send_signal(number)
            _, complained = running.communicate(timeout=20)
    finally:
        os.close(reading)
        os.close(writing)
    assert running.returncode == 3
    assert complained.splitlines()[-1] == "greet: standard output: its reader took nothing for 1 s"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_slow_reader_gets_everything_after_a_signal(peers: Peers, number: int) -> None:
    reading, writing = os.pipe()
    peer = peers.stream(lambda connection: connection.sendall(b"x" * 63_000 + b"\r\n"))
    try:
        with started("-c", "0", "-i", "0", "--json", peer, stdout=writing) as running:
            os.close(writing)
            data = os.read(reading, 65536)
            running.send_signal(number)
            while part := os.read(reading, 65536):
                data += part
                time.sleep(0.01)
            assert running.wait(20) == 0
            assert running.stderr is not None
            assert running.stderr.read() == ""
    finally:
        os.close(reading)
    lines = data.decode().splitlines()
    assert "summary" in json.loads(lines[-1])
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (
            ["--nagios"],
            "GREET WARNING - {}: stopped: no connection has ended so far; nothing else is known | silence=U;",
        ),
        (["--json"], '"survived": null'),
        (["--healthcheck"], "greet: {}: stopped: no connection has ended so far; nothing else is known\n"),
        ([], "stopped: no connection has ended so far; nothing else is known\n"),
    ],
    ids=lambda value: " ".join(value) or "text" if isinstance(value, list) else "",
)
def test_a_silence_that_is_not_over_is_not_survived(peers: Peers, options: list[str], word: str) -> None:
    talking = Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"hello\r\n")
        connection.settimeout(20)
        for _ in range(2):  # who says more has read the first reply
            if data := connection.recv(100):
                connection.sendall(data)
            else:
                return
        talking.set()
        peers.over.wait(20)

    target = peers.stream(talk)
    with started("--hold", "15", *options, target) as running:
        assert talking.wait(20)
        running.send_signal(signal.SIGTERM)
        said, complained = running.communicate(timeout=20)
    assert running.returncode == 1
    assert word.format(f"tcp:{target}") in said + complained
