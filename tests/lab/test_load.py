"""A load run beside the load generator in C, and against real services that stall, restart or use up the ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import field, frozen

from bench.loadgen import compiled
from bench.sample import percentile

if TYPE_CHECKING:
    from tests.lab.conftest import Namespace

SOURCES = Path(__file__).parents[2] / "bench"
GREETING = "Thank you for connecting\r\n"
SECONDS = "0.7"
ROUNDS, MOST_ROUNDS = 3, 12
SLOW = f"""
import asyncio, itertools

number = itertools.count()
async def greet(_, writer):
    await asyncio.sleep(0.12 if next(number) % 20 == 0 else 0.04)
    writer.write({GREETING.encode()!r})
    writer.close()
async def main():
    server = await asyncio.start_server(greet, "127.0.0.1", 8088, backlog=200)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
"""A server that takes 40 ms, and 120 ms for one in twenty."""


@frozen
class Best:
    """The best of several rounds: most greetings a second, and the least of each percentile, in seconds."""

    rates: list[float] = field(factory=list)
    p50: list[float] = field(factory=list)
    p99: list[float] = field(factory=list)

    def add(self, rate: float, p50: float, p99: float) -> None:
        """One round."""
        self.rates.append(rate)
        self.p50.append(p50)
        self.p99.append(p99)

    def differs(self, other: Best) -> str:
        """In words, when the percentiles differ by more than 10 % at p50 or 20 % at p99."""
        p50, p99 = min(self.p50) / min(other.p50), min(self.p99) / min(other.p99)
        rates = f"{max(self.rates):.0f} to {max(other.rates):.0f} a second"
        return f"{rates}, p50 {p50:.2f}, p99 {p99:.2f}" if abs(p50 - 1) > 0.1 or abs(p99 - 1) > 0.2 else ""


def by_c(namespace: Namespace, program: Path, port: str, best: Best) -> None:
    done = namespace.run(
        *("taskset", "-c", _cores()[1], str(program), "tcp", "127.0.0.1", port, "64"),
        *("--seconds", SECONDS, "--warm", "0.2", "--sources", "1", "--expect", GREETING),
    )
    seen = json.loads(done.stdout)
    assert seen["reset"] == seen["lost"] == seen["wrong"] == 0
    best.add(seen["greeted"] / seen["seconds"], percentile(seen["latency"], 0.5), percentile(seen["latency"], 0.99))


def by_greet(namespace: Namespace, port: str, best: Best) -> None:
    summary = loaded(namespace, f"127.0.0.1:{port}", "--duration", SECONDS, "--concurrency", "64")
    assert summary["lost"] == 0
    best.add(summary["rate"], summary["seconds"]["p50"], summary["seconds"]["p99"])


def loaded(namespace: Namespace, *options: str) -> dict[str, Any]:
    """The summary of a load run on the second core."""
    done = namespace.run("taskset", "-c", _cores()[1], *namespace.command("greet", "--json", *options)[4:])
    assert done.stderr == b""
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["summary"]
    return summary


def _cores() -> list[str]:
    """Two cores of this machine: one for the server, one for the load."""
    return [str(core) for core in sorted(os.sched_getaffinity(0))[:2]]


def generator(folder: Path) -> Path:
    """The load generator in C; the test is skipped where it cannot be compiled."""
    if len(_cores()) < 2:
        pytest.skip("needs two cores: one for the server, one for the load")
    program = compiled(SOURCES / "load.c", folder)
    if program is None:
        pytest.skip("needs a C compiler")
    return program


def held_together(namespace: Namespace, program: Path, port: str) -> tuple[Best, Best]:
    """Measure with both in turn until they agree."""
    theirs, ours = Best(), Best()
    for number in range(1, MOST_ROUNDS + 1):
        by_c(namespace, program, port, theirs)
        by_greet(namespace, port, ours)
        if number >= ROUNDS and not ours.differs(theirs):
            break
    return theirs, ours


def test_it_agrees_with_the_generator_in_c_on_what_a_slow_server_takes(namespace: Namespace, tmp_path: Path) -> None:
    """The server's own delays are much longer than what a busy machine adds."""
    program = generator(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    namespace.start("taskset", "-c", _cores()[0], sys.executable, "slow.py", until="ready")
    theirs, ours = held_together(namespace, program, "8088")
    assert not ours.differs(theirs)
    assert min(ours.p50) > 0.04
    assert min(ours.p99) > 0.12


def test_a_service_that_stands_still_for_a_second_shows_in_the_corrected_percentiles(namespace: Namespace) -> None:
    server = namespace.twistd("--listen", "tcp:8088", "--log-visits", "off")
    greet = subprocess.Popen(
        namespace.command("greet", "--json", "--duration", "4", "--rate", "200", "--concurrency", "4"),
        stdout=subprocess.PIPE,
    )
    assert greet.stdout is not None
    greet.stdout.readline()
    server.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    server.send_signal(signal.SIGCONT)
    summary = json.loads(greet.stdout.read().splitlines()[-1])["summary"]
    assert greet.wait(20) == 0
    greet.stdout.close()
    assert summary["greeted"] == 800
    assert summary["seconds"]["p99"] > 0.8
    assert summary["seconds"]["p90"] > 0.4
    assert summary["uncorrected"]["p90"] < 0.1
    assert "all 4 were in flight" in summary["warnings"][0]


def test_a_service_that_is_restarted_shows_what_was_lost_and_when(namespace: Namespace) -> None:
    server = namespace.twistd("--listen", "tcp:8088", "--log-visits", "off")
    with subprocess.Popen(
        namespace.command("greet", "--duration", "6", "--rate", "200"), stdout=subprocess.PIPE, text=True
    ) as greet:
        assert greet.stdout is not None
        while not greet.stdout.readline().startswith("         2 "):
            pass
        server.stop()
        namespace.twistd("--listen", "tcp:8088", "--log-visits", "off")
        rest = greet.stdout.read()
        assert greet.wait(20) == 1
    assert "connect: Connection refused (ECONNREFUSED): " in rest
    assert "lost by the second in which they started: " in rest
    assert " in 3" in rest.rpartition("started: ")[2]


def test_a_host_that_runs_out_of_source_ports_says_that_the_losses_are_its_own(namespace: Namespace) -> None:
    namespace.run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40009")
    holding = "import socket, time; s = socket.create_server(('', 8088)); print('ready', flush=True); time.sleep(9)"
    namespace.start("python", "-c", holding, until="ready")
    done = namespace.run("greet", "--duration", "0.3", "--concurrency", "20", "-t", "1")
    assert done.returncode == 2
    assert b"this host had no free source port for " in done.stderr
    assert re.search(rb"connect: .*no free source port.* \(EADDRNOTAVAIL\): ", done.stdout), done.stdout
