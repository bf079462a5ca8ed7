"""A health check in its plain form has the lines and the exit statuses of the ordinary command, and no library."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greetsvc import wire
from greetsvc.cli.healthcheck import plain_form
from greetsvc.client.basics import BASICS, Basics
from greetsvc.client.target import Target
from greetsvc.visit import Address
from tests.support.greet import FORKED, GREET
from tests.support.peers import Peers, Says, until_read

ORDINARY = ("--encoding", "utf-8")
"""The default, and an option that the plain form does not have: the ordinary command runs."""

Make = Callable[[Peers, Says, Path], str]


def says(*pieces: bytes, pause: float = 0.0) -> Says:
    def say(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return say


def held(data: bytes) -> Make:
    """Says this, and does not close before the client does."""

    def say(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.recv(1)

    return lambda peers, _, __: peers.stream(say)


def then_reset(data: bytes) -> Make:
    def make(peers: Peers, reset: Says, _: Path) -> str:
        def say(connection: socket.socket) -> None:
            connection.sendall(data)
            until_read(connection)
            reset(connection)

        return peers.stream(say)

    return make


def answer(*answers: bytes) -> Make:
    def send(sock: socket.socket, _: bytes, sender: Any) -> None:
        for each in answers:
            sock.sendto(each, sender)

    return lambda peers, _, __: peers.datagram(send)


def hello(sock: socket.socket, _: bytes, sender: Any) -> None:
    sock.sendto(b"hello\r\n", sender)


def echo(sock: socket.socket, request: bytes, sender: Any) -> None:
    sock.sendto(request, sender)


def from_another_port(peers: Peers, *_: object) -> str:
    other = socket.socket(type=socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 0))
    peers.sockets.append(other)
    return peers.datagram(lambda _, request, sender: hello(other, request, sender))


def record(nonce: str) -> bytes:
    nobody = Address("127.0.0.1", 1)
    return wire.encode_record(
        wire.PathRecord("i", nonce, "udp", nobody, nobody, via=None, syn=None, tcp=None, tls=None, datagram=None)
    )


def own_record(sock: socket.socket, request: bytes, sender: Any) -> None:
    sock.sendto(record(wire.nonce_of(request) or ""), sender)


def full_queue(peers: Peers, _: Says, folder: Path) -> str:
    """A UNIX socket whose queue is full."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "full"))
    listener.listen(0)
    peers.sockets.append(listener)
    while True:
        waiting = socket.socket(socket.AF_UNIX)
        waiting.setblocking(False)
        peers.sockets.append(waiting)
        try:
            waiting.connect(str(folder / "full"))
        except BlockingIOError:
            return f"unix:{folder}/full"


def half(connection: socket.socket) -> None:
    connection.sendall(b"hello\r\n")
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)


PEERS: dict[str, Make] = {
    "greeting": lambda peers, *_: peers.stream(says(b"hello\r\n")),
    "greeting in pieces": lambda peers, *_: peers.stream(says(b"hel", b"lo", pause=0.02)),
    "greeting, then a half-close": lambda peers, *_: peers.stream(half),
    "cut within a character": lambda peers, *_: peers.stream(says("hello Grüß".encode()[:-1])),
    "greeting over UNIX": lambda peers, _, folder: peers.stream(says(b"hello\r\n"), path=folder / "s"),
    "silent": held(b""),
    "refused": lambda *_: "127.0.0.1:1",
    "refused over IPv6": lambda *_: "[::1]:1",
    "not an interface": lambda *_: "[fe80::1%nowhere]:1",
    "reset": lambda peers, reset, _: peers.stream(reset),
    "closed without a word": lambda peers, *_: peers.stream(says()),
    "cut short by a reset": then_reset(b"hel"),
    "reset after a line": then_reset(b"hello\r\n"),
    "cut short by silence": held(b"hel"),
    "not closed": held(b"hello\r\n"),
    "still coming": lambda peers, *_: peers.stream(says(*(10 * [b"hello\r\n"]), pause=0.15)),
    "too long": lambda peers, *_: peers.stream(says(70_000 * b"x")),
    "a TLS alert": lambda peers, *_: peers.stream(says(b"\x15\x03\x03\x00\x02\x02\x0a")),
    "a path record": lambda peers, *_: peers.stream(says(record("00000000000000aa"))),
    "no such path": lambda *_: "unix:/nonexistent/\x1b[31m",
    "not a socket": lambda *_: "unix:/dev/null",
    "full": full_queue,
    "a name": lambda peers, *_: peers.stream(says(b"hello\r\n")).replace("127.0.0.1", "localhost"),
    "a name that does not answer": lambda *_: "localhost:1",
    "no such name": lambda *_: "no-such-name.invalid:1",
    "datagram: greeting": lambda peers, *_: peers.datagram(hello),
    "datagram: greeting over IPv6": lambda peers, *_: peers.datagram(hello, family=socket.AF_INET6),
    "datagram: two": answer(b"hello\r\n", b"hello\r\n"),
    "datagram: silent": answer(),
    "datagram: late": lambda peers, *_: peers.datagram(peers.later(0.2)),
    "datagram: too late": lambda peers, *_: peers.datagram(peers.later(0.9)),
    "datagram: refused": lambda *_: "udp:127.0.0.1:1",
    "datagram: refused over IPv6": lambda *_: "udp:[::1]:1",
    "datagram: broadcast": lambda *_: "udp:255.255.255.255:1",
    "datagram: empty": answer(b""),
    "datagram: too long": answer(60_000 * b"x"),
    "datagram: our own request": lambda peers, *_: peers.datagram(echo),
    "datagram: from another address": from_another_port,
    "datagram: to another request": answer(record("00000000000000aa")),
    "datagram: to this request": lambda peers, *_: peers.datagram(own_record),
    "datagram: no record": answer(b'{"not": "a record"}'),
    "UNIX datagram: greeting": lambda peers, _, folder: peers.datagram(hello, path=folder / "d"),
    "UNIX datagram: silent": lambda peers, _, folder: peers.datagram(lambda *_: None, path=folder / "d"),
    "UNIX datagram: no such path": lambda *_: "unixgram:/nonexistent",
}


def check(*arguments: str, program: str = FORKED) -> tuple[int, str, str]:
    command = [program, "--healthcheck", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("kind", PEERS)
def test_it_says_what_the_ordinary_command_says(kind: str, peers: Peers, reset: Says, tmp_path: Path) -> None:
    target = PEERS[kind](peers, reset, tmp_path)
    # To see that something was read takes a while on a busy machine.
    arguments = ["-t", "5" if "reset" in kind else "0.7", target]
    assert plain_form(arguments) is not None
    ordinary = check(*ORDINARY, *arguments)
    quick = check(*arguments)
    # How much of a slow greeting comes in time is not the same twice.
    assert re.sub("after [0-9]+ bytes", "", quick[2]) == re.sub("after [0-9]+ bytes", "", ordinary[2])
    assert quick[:2] == ordinary[:2]
    assert (quick[0] == 0) == (quick[2] == "")


@pytest.mark.parametrize("descriptors", [4, 5, 6, 7, 8, 9, 10])
def test_without_descriptors_it_is_a_verdict_too(descriptors: int) -> None:
    command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$0" --healthcheck 127.0.0.1:1', FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("greet: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [*"ab"],
        ["-t"],
        ["-t", "0", "a"],
        ["-t", "0.0", "a"],
        ["-t", "86401", "a"],
        ["-t", "-1", "a"],
        ["-t", "1e3", "a"],
        ["-4", "-6", "a"],
        ["-4", "[::1]:1"],
        ["-6", "127.0.0.1:1"],
        ["-4", "unix:/tmp/s"],
        ["tls:a"],
        ["--json", "a"],
        ["--", "a"],
        ["8088"],
        [""],
        ["a:99999"],
        ["--expect", "x", "a"],
        ["-t2", "a"],
    ],
    ids=" ".join,
)
def test_everything_else_is_left_to_the_ordinary_command(arguments: list[str]) -> None:
    assert plain_form(["--healthcheck", *arguments]) is None


@pytest.mark.parametrize(
    ("arguments", "target", "options"),
    [
        ([], Target("tcp", "127.0.0.1", 8088), BASICS),
        (["-6"], Target("tcp", "::1", 8088), Basics(family=6)),
        (["-t", "2.5", "udp:a"], Target("udp", "a", 8088), Basics(timeout=2.5)),
        (["a", "-t", "9999", "-4", "-4"], Target("tcp", "a", 8088), Basics(timeout=9999, family=4)),
        (["unixgram:/s"], Target("unixgram", path="/s"), BASICS),
    ],
    ids=str,
)
def test_the_plain_form(arguments: list[str], target: Target, options: Basics) -> None:
    assert plain_form([*arguments, "--healthcheck"]) == (target, options)


# Runs the command as the script does, and says which libraries it has loaded.
RUN = """
import sys, socket, time
if {slow}:
    real = socket.getaddrinfo
    def slow(host, port, family=0, type=0, proto=0, flags=0):
        flags or time.sleep(60)
        return real(host, port, family, type, proto, flags)
    socket.getaddrinfo = slow
from greetsvc.cli import main
sys.argv = ["greet", "--healthcheck", *{arguments!r}]
status = main()
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{"attr", "attrs", "click", "rich", "twisted"}}))
sys.exit(status)
"""


def run(*arguments: str, slow: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN.format(slow=slow, arguments=arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_it_loads_no_library(peers: Peers, tmp_path: Path) -> None:
    greeted = [
        peers.stream(says(b"hello\r\n")),
        peers.stream(says(b"hello\r\n"), path=tmp_path / "s"),
        peers.datagram(hello),
        peers.datagram(hello, path=tmp_path / "d"),
    ]
    for target in greeted:
        done = run(target)
        assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    for target in ("localhost:1", "udp:127.0.0.1:1", "unix:/nonexistent", "unixgram:/nonexistent"):
        done = run(target)
        assert (done.returncode, done.stdout) == (2, "\n")


def test_a_resolver_that_does_not_answer_holds_neither_the_verdict_nor_the_exit() -> None:
    done = run("-t", "0.2", "name.invalid", slow=True)
    words = "greet: tcp:name.invalid:8088: resolve: no answer from the resolver within 0.2 s\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "\n", words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [(), ORDINARY], ids=["plain", "ordinary"])
def test_a_signal_ends_it_as_it_ends_the_ordinary_command(
    number: signal.Signals, more: tuple[str, ...], peers: Peers
) -> None:
    command = [FORKED, "--healthcheck", "-t", "20", *more, peers.stream(lambda _: signalled(child.pid, number))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.communicate(timeout=30) == (b"", b"")
        assert child.returncode == 2


def signalled(pid: int, number: signal.Signals) -> None:
    """Signal the process, and keep the connection for a while: its end would be a verdict."""
    os.kill(pid, number)
    time.sleep(0.5)


def test_a_closed_standard_error_does_not_change_the_status() -> None:
    done = subprocess.run(["sh", "-c", '"$0" --healthcheck 127.0.0.1:1 2>&-', GREET], timeout=30, check=False)
    assert done.returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when it received a datagram")
@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("options", [["--healthcheck"], []], ids=["health check", "ordinary"])
def test_what_came_in_time_counts_also_if_the_command_did_not_run_then(options: list[str], in_time: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        command = [GREET, *options, "-t", "0.45", f"udp:127.0.0.1:{server.getsockname()[1]}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            _, sender = server.recvfrom(9000)
            running.send_signal(signal.SIGSTOP)
            if in_time:
                server.sendto(b"hello\r\n", sender)
            time.sleep(0.6)
            if not in_time:
                server.sendto(b"hello\r\n", sender)
                time.sleep(0.1)
            running.send_signal(signal.SIGCONT)
            _, complained = running.communicate(timeout=20)
    assert running.returncode == (0 if in_time else 2)
    assert ("an answer came after the time-out" in complained) is not in_time
