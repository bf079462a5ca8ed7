"""Visitors are greeted as ever, whoever watches the admin site, and whatever is done to it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from attrs import define, field

from tests.lab.conftest import BIN
from tests.support.process import Program
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.alone

ADMIN = "Admin site at port: "
LISTEN = ("--listen", "tcp:0:interface=127.0.0.1", "--log-visits", "off")
WATCHERS = 200
RATE = 5000
RUNS = 2
IDLE = 10_000
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def files() -> Iterator[None]:
    """As many open files as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def admin_port(service: Program) -> int:
    return int(service.wait_for(ADMIN)[0].split()[0])


def asked(port: int, path: str, host: str = "localhost") -> bytes:
    """The answer of the admin site, as it comes."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65536), b""))


@define
class Watchers:
    """Half of them read."""

    socks: list[socket.socket]
    over: threading.Event = field(factory=threading.Event)
    read: int = 0
    ended: int = 0

    def run(self) -> None:
        """Read, on every other one."""
        readers = self.socks[::2]
        for sock in readers:
            sock.setblocking(False)
        while not self.over.wait(0.1):
            for sock in readers:
                try:
                    size = len(sock.recv(1 << 20))
                except BlockingIOError:
                    continue
                self.read += size
                self.ended += not size


@pytest.fixture
def watchers(visitor: Any) -> Iterator[Callable[[int], Watchers]]:
    """Opens connections that watch a service."""
    made: list[tuple[Watchers, threading.Thread]] = []

    def watch(port: int) -> Watchers:
        socks = [visitor.connect(port) for _ in range(WATCHERS)]
        for sock in socks:
            sock.sendall(EVENTS)
        watching = Watchers(socks)
        thread = threading.Thread(target=watching.run)
        thread.start()
        made.append((watching, thread))
        return watching

    yield watch
    for watching, thread in made:
        watching.over.set()
        thread.join()


def load_run(service: Program) -> dict[str, Any]:
    """The summary of a load run."""
    command = [f"{BIN}/greet", f"127.0.0.1:{service.ports()[0]}", "--rate", f"{RATE}", "--duration", "1.5", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["summary"]
    return summary


def test_two_hundred_watchers_cost_no_visitor_the_greeting(child: Callable[..., Program], watchers: Any) -> None:
    """How little they slow visitors down is a gate of ``make bench``."""
    service = child(*LISTEN, "--admin", "tcp:0")
    port = admin_port(service)
    service.ports()
    before = service.rss()
    watching = watchers(port)
    summaries = [load_run(service) for _ in range(RUNS)]
    more = service.rss() - before
    sys.stdout.write(f"{more / WATCHERS / 1024:.1f} KiB a watcher\n")
    assert [summary["lost"] for summary in summaries] == [0] * RUNS
    assert more < 16 * 2**20
    assert watching.read > WATCHERS * 1000
    assert not watching.ended


def test_readiness_never_fails_in_an_upgrade(child: Callable[..., Program]) -> None:
    service = child(*LISTEN, "--admin", "tcp:0")
    port = admin_port(service)
    service.ports()
    service.send_signal(signal.SIGUSR2)
    answers = set()
    while service.alive():
        answers.add(asked(port, "/readyz").partition(b"\r\n\r\n")[2])
    successor = int(service.wait_for("Upgrade: process ")[0].split()[0])
    try:
        answers.add(asked(port, "/readyz").partition(b"\r\n\r\n")[2])
    finally:
        os.kill(successor, signal.SIGTERM)
    assert answers == {b"ready\n"}


@pytest.mark.usefixtures("files")
def test_nothing_that_is_done_to_the_site_keeps_a_visitor_waiting(
    child: Callable[..., Program], visitor: Any, honest: Any
) -> None:
    service = child(*LISTEN, "--admin", "tcp:0")
    port, idle, before = admin_port(service), service.descriptors(), service.rss()
    slow = visitor.connect(port)
    over = threading.Event()
    refused: list[bool] = []

    def annoy() -> None:
        """A byte of a request now and then, and requests of a page that is not ours."""
        while not over.wait(0.05):
            with suppress(OSError):
                slow.send(b"X")
            refused.append(b" 421 " in asked(port, "/metrics", "evil.example"))

    annoyance = threading.Thread(target=annoy)
    annoyance.start()
    connecting = threading.Thread(target=lambda: [visitor.connect(port) for _ in range(IDLE)])
    connecting.start()
    greeted = honest(service.ports()[0], 5)
    alive = asked(port, "/livez")
    connecting.join()
    over.set()
    annoyance.join()
    most = service.descriptors() - idle
    sys.stdout.write(f"{greeted}; {most} descriptors, {(service.rss() - before) / 2**20:.1f} MiB\n")
    assert refused
    assert all(refused)
    assert greeted.missed == 0
    assert greeted.p(0.99) < 0.1
    assert alive.endswith(b"alive\n")
    assert most < 600
    assert service.rss() - before < 16 * 2**20
