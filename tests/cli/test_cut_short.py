"""A part of a greeting and late answers are no greeting: what the command says in each form, and how it ends."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.greet import FORKED
from tests.support.peers import Peers, Says

Make = Callable[[Peers, Says, Path], str]


def greet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FORKED, *arguments], capture_output=True, text=True, timeout=60, check=False)


def still_coming(peers: Peers, _: Says, __: Path) -> str:
    def say(connection: socket.socket) -> None:
        for byte in b"Thank you for connecting\r\n" * 9:
            connection.sendall(bytes([byte]))
            if peers.over.wait(0.05):
                return

    return peers.stream(say)


def then_reset(peers: Peers, reset: Says, _: Path) -> str:
    def say(connection: socket.socket) -> None:
        connection.sendall(b"Thank you ")
        peers.over.wait(0.05)
        reset(connection)

    return peers.stream(say)


def within_a_character(peers: Peers, _: Says, folder: Path) -> str:
    return peers.stream(lambda connection: connection.sendall("Grüß".encode()[:-1]), path=folder / "s")


CUT: dict[str, tuple[Make, int, str]] = {
    "still coming": (still_coming, 110, "and more was still coming"),
    "then reset": (then_reset, 104, "without a line end"),
    "within a character": (within_a_character, 71, "within a character"),
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize(
    "options", [[], ["--json"], ["--nagios"], ["--healthcheck"], ["-c", "2", "-i", "0"]], ids=" ".join
)
def test_a_part_of_a_greeting_is_status_1_and_says_how_much_came(
    peers: Peers, reset: Says, tmp_path: Path, kind: str, options: list[str]
) -> None:
    make, number, why = CUT[kind]
    done = greet("-t", "1.5", *options, make(peers, reset, tmp_path))
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert re.search(rf"cut short after [1-9][0-9]* bytes {why}", said)
    if options == ["--json"]:
        found = json.loads(done.stdout)
        assert (found["ok"], found["phase"], found["errno"]) == (True, "close", number)
    if options == ["--nagios"]:
        assert done.stdout.startswith("GREET WARNING - ")


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(lambda peers: peers.later(0.45), id="late"),
        pytest.param(lambda peers: peers.later(0.7), id="later than the next probe"),
        pytest.param(lambda peers: peers.later(0.35), id="just too late"),
    ],
)
@pytest.mark.parametrize("options", [["--flows", "2"], ["--source-port"], []], ids=" ".join)
def test_an_answer_counts_for_the_request_it_answers_or_for_none(
    peers: Peers, free_port: int, answers: Callable[[Peers], Any], options: list[str]
) -> None:
    given = [*options, str(free_port)] if options == ["--source-port"] else options
    done = greet("-c", "3", "-i", "0.3", "-t", "0.3", "--json", *given, peers.datagram(answers(peers)))
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert (done.returncode, summary["greeted"]) == (2, 0), done.stdout


@pytest.mark.parametrize(("copies", "concurrency"), [(2, 4), (3, 1), (2, 1)])
def test_the_copies_of_an_answer_are_no_further_greetings(peers: Peers, copies: int, concurrency: int) -> None:
    asked: list[bytes] = []

    def twice(sock: socket.socket, request: bytes, sender: Any) -> None:
        asked.append(request)
        for _ in range(copies):
            sock.sendto(b"hello\r\n", sender)

    done = greet("--duration", "0.5", "--concurrency", str(concurrency), "--json", peers.datagram(twice))
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert 0 < summary["greeted"] <= len(asked)
