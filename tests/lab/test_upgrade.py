"""Upgrades and restarts under load lose nobody: counted by `greet`, and by a program that knows nothing of us."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from tests.support.activation import Manager
from tests.support.certificates import Papers
from tests.support.process import Program, Programs
from tests.support.waiting import PATIENCE

BLOCKING = Path(__file__).parents[1] / "support" / "blocking_client.py"
RATES = {"tcp": 200, "udp": 200, "unix": 200, "tls": 40}
"""Visits a second that `greet` makes; the blocking client makes about as many."""


@define
class Counting:
    """Two clients that visit all the time: TCP, UDP, TLS and a UNIX socket."""

    loads: list[subprocess.Popen[bytes]] = field(factory=list)
    blocking: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, tcp: int, udp: int, tls: int, path: str, ca: str) -> None:
        """Begin to visit."""
        places = {"tcp": f"127.0.0.1:{tcp}", "udp": f"127.0.0.1:{udp}", "tls": f"127.0.0.1:{tls}", "unix": path}
        for kind, place in places.items():
            options = ["--ca", ca, "--sni", "localhost"] if kind == "tls" else []
            options += ["--size", "200"] if kind == "udp" else []  # more of them fit the receive buffer
            load = ["--duration", "600", "--rate", str(RATES[kind]), "-t", "15", "--json", *options]
            self.loads.append(_started(str(Path(sys.executable).parent / "greet"), *load, f"{kind}:{place}"))
        targets = [f"{kind} {place}".replace(":", " ") for kind, place in places.items() if kind != "tls"]
        self.blocking.append(_started(sys.executable, str(BLOCKING), *targets, f"tls 127.0.0.1 {tls} {ca}"))

    def end(self) -> dict[str, int]:
        """Stop, and tell how many visits each client counted as greeted; fail if it lost one."""
        greeted = Counter[str]()
        for process in self.loads:
            process.send_signal(signal.SIGINT)
        for process in self.blocking:
            told, _ = process.communicate(b"", PATIENCE)
            counted = json.loads(told)
            assert not counted["lost"], counted
            greeted["blocking"] += sum(counted["greeted"].values())
        for process in self.loads:
            output, _ = process.communicate(timeout=PATIENCE)
            summary = json.loads(output.splitlines()[-1])["summary"]
            assert not summary["lost"], f"{process.args!r}: {json.dumps(summary)}; {_overflown()}"
            greeted["greet"] += summary["greeted"]
        return dict(greeted)

    def kill(self) -> None:
        """End it whatever it does."""
        for process in (*self.loads, *self.blocking):
            process.kill()
            process.communicate()


def _started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _overflown() -> str:
    """How many datagrams this machine lost since its start because a program did not get to read them in time."""
    names, values = [row.split() for row in Path("/proc/net/snmp").read_text().splitlines() if row.startswith("Udp:")]
    return f"{values[names.index('RcvbufErrors')]} datagrams did not fit a receive buffer on this machine so far"


@pytest.fixture
def counting() -> Iterator[Counting]:
    """Clients that count; they are killed at the end."""
    one = Counting()
    yield one
    one.kill()


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Programs that are killed at the end."""
    some = Programs()
    yield some
    some.kill()


def _listen(folder: Path, papers: Papers) -> list[str]:
    (folder / "tls").mkdir()
    (folder / "tls" / "localhost.pem").write_bytes(Path(papers.path("good")).read_bytes())
    listen = [
        "tcp:0:interface=127.0.0.1",
        "udp:0:interface=127.0.0.1",
        rf"tls:{folder / 'tls'}:port=0:interface=\:\:ffff\:127.0.0.1",
        f"unix:{folder / 'greet.sock'}",
    ]
    return [word for endpoint in listen for word in ("--listen", endpoint)]


def _command(*options: str) -> list[str]:
    return [str(Path(sys.executable).parent / "greetsvc"), "--log-visits", "off", *options]


@pytest.mark.parametrize(("workers", "times", "least"), [(1, 20, 20_000), (2, 5, 2_000)])
def test_upgrades_under_load_lose_nobody(
    counting: Counting, programs: Programs, papers: Papers, tmp_path: Path, workers: int, times: int, least: int
) -> None:
    server = programs.start(_command("--workers", str(workers), *_listen(tmp_path, papers)), tmp_path)
    tcp, udp, tls = server.ports(3)
    counting.start(tcp, udp, tls, str(tmp_path / "greet.sock"), papers.path("ca"))
    begun = time.monotonic()
    for number in range(1, times + 1):
        server.send_signal(signal.SIGUSR2)
        server.wait_for(" serves, this one ends", number)
        pid = int(server.wait_for("Upgrade: process ", 2 * number)[-1].split()[0])
        server.wait()
        server = programs.add(Program(pid, server.log))
    while time.monotonic() < begun + least / 1000:
        time.sleep(0.1)
    greeted = counting.end()
    assert sum(greeted.values()) >= least, greeted
    server.stop()


def test_restarts_with_sockets_of_a_service_manager_lose_nobody(
    counting: Counting, programs: Programs, papers: Papers, tmp_path: Path
) -> None:
    """The receive buffer holds the datagrams of a pause: `ReceiveBuffer=` of the socket unit."""
    _listen(tmp_path, papers)
    path = str(tmp_path / "greet.sock")
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
    sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sockets[2].bind(path)
    sockets[2].listen(4096)
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[3].setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    sockets[3].bind(("127.0.0.1", 0))
    manager = Manager(sockets, ["plain", "secure", "plain", "plain"])
    words = _command("--listen", "inherited:plain", "--listen", f"tls:{tmp_path / 'tls'}:inherited=secure")

    def start() -> Program:
        server = programs.start(manager.command(*words), tmp_path, pass_fds=manager.descriptors)
        server.wait_for("Server start at ", 4)
        return server

    server = start()
    ports = [sockets[number].getsockname()[1] for number in (0, 3, 1)]
    counting.start(ports[0], ports[1], ports[2], path, papers.path("ca"))
    for _ in range(5):
        time.sleep(0.3)
        server.stop()
        server = start()
    greeted = counting.end()
    assert sum(greeted.values()) >= 2_000, greeted
    server.stop()
    for sock in sockets:
        sock.close()
