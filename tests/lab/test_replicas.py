"""What is lost when a replica behind a real HAProxy, or a worker, is restarted or killed under load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.haproxy import tell
from tests.support.process import Program, Programs
from tests.support.waiting import PATIENCE, wait_until

BLOCKING = Path(__file__).parents[1] / "support" / "blocking_client.py"
CONFIG = """
global
    stats socket {folder}/admin level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    retries 3
    option redispatch 1
listen greetings
    bind fd@{fd}
    balance leastconn
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Programs that are killed at the end."""
    some = Programs()
    yield some
    some.kill()


def _greetsvc(programs: Programs, folder: Path, *options: str) -> Program:
    command = [str(Path(sys.executable).parent / "greetsvc"), "--log-visits", "off", *options]
    return programs.start(command, folder)


def _replica(programs: Programs, folder: Path, port: int = 0) -> Program:
    server = _greetsvc(programs, folder, "--listen", f"tcp:{port}:interface=127.0.0.1")
    server.ports()
    return server


class Visits:
    """Blocking sockets that visit a port, until `end` counts."""

    def __init__(self, *targets: str) -> None:
        command = [sys.executable, str(BLOCKING), *targets]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end(self) -> tuple[int, dict[str, int]]:
        """How many were greeted, and why the others were not."""
        told, _ = self.process.communicate(b"", PATIENCE)
        counted = json.loads(told)
        return sum(counted["greeted"].values()), counted["lost"]


def test_replicas_behind_haproxy_are_restarted_in_turn_without_a_loss(programs: Programs, tmp_path: Path) -> None:
    """HAProxy is told before. Then one is killed: only the visits that it had in hand may be lost."""
    replicas = {name: _replica(programs, tmp_path) for name in ("one", "two")}
    ports = {name: server.ports()[0] for name, server in replicas.items()}
    with socket.create_server(("127.0.0.1", 0)) as front:
        config = tmp_path / "haproxy.cfg"
        config.write_text(CONFIG.format(folder=tmp_path, fd=front.fileno(), **ports))
        programs.start(["haproxy", "-db", "-f", str(config)], tmp_path, pass_fds=[front.fileno()])
        wait_until((tmp_path / "admin").exists)
        port = front.getsockname()[1]
    visits = Visits(f"tcp 127.0.0.1 {port}")
    for _ in range(3):
        for name, port_of_replica in ports.items():
            tell(tmp_path / "admin", f"set server greetings/{name} state maint")
            assert replicas[name].stop() == 0
            replicas[name] = _replica(programs, tmp_path, port_of_replica)
            tell(tmp_path / "admin", f"set server greetings/{name} state ready")
    greeted, lost = visits.end()
    assert greeted > 100
    assert not lost

    visits = Visits(f"tcp 127.0.0.1 {port}")
    time.sleep(0.5)
    replicas["one"].kill()
    time.sleep(0.5)
    greeted, lost = visits.end()
    assert greeted > 20
    # The client has four visits at a time; of these only those that the replica had accepted are lost.
    assert sum(lost.values()) <= 4, f"of {greeted} visits lost: {lost}"


def test_a_worker_that_is_killed_loses_only_what_it_held(programs: Programs, tmp_path: Path) -> None:
    """Five are killed under load; each had at most the eight visits in hand that the client makes at a time."""
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--listen", "udp:0:interface=127.0.0.1")
    server = _greetsvc(programs, tmp_path, "--workers", "2", *listen)
    tcp, udp = server.ports(2)
    (told,) = server.wait_for("2 workers serve: processes ")
    pid = int(told.split(", ")[0])
    visits = Visits(f"tcp 127.0.0.1 {tcp}", f"udp 127.0.0.1 {udp}")
    for number in range(1, 6):
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        pid = int(server.wait_for("Worker 1 serves: process ", number)[-1])
    greeted, lost = visits.end()
    assert greeted > 200
    assert sum(lost.values()) <= 5 * 8, f"of {greeted} visits lost: {lost}"
    assert server.stop() == 0
