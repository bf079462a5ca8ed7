"""Talking connections side by side: processor time of the server per message, and memory per held connection.

`python -m bench.talking` alone, or as a part of `make bench`. Each scenario goes round all servers in each round, and
the ratios are those of a round. The client is the same for all, and of Python: rates are what it can do.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from bench.gates import Gate
from bench.machine import Cores
from bench.peers import GREETSVC, STOCK, UVLOOP, Peer, Tools
from bench.process import Server, raise_file_limit
from bench.sample import Spread
from bench.servers import HOST

REQUEST = b"Ada Lovelace\n"
SCENARIOS = ((1, 1), (1, 64), (64, 1), (64, 64), (1000, 1))
"""Connections, and messages in flight on each."""

HELD = 10_000
PATIENCE = 20.0
_WARM = 0.1


@frozen
class Turn:
    """One turn of one server. ``cpu`` is in seconds per message, ``rate`` in messages per second."""

    peer: str
    connections: int
    in_flight: int
    cpu: float
    rate: float


def peers(tools: Tools) -> list[Peer]:
    """Those that greet each line, and do the same work for it: decode, fill in, encode, within a bound."""
    python, here = sys.executable, Path(sys.executable)
    greetsvc = [str(here.with_name("twistd")), "-n", "--pidfile=", "greetsvc", "--listen", f"tcp:0:interface={HOST}"]
    return [
        Peer(
            name=GREETSVC,
            transport="tcp",
            command=[*greetsvc, *("--protocol", "lines:rate=10000000", "--greeting", "Hello, {name}")],
            note="as shipped, without the bound on the rate",
        ),
        Peer(
            name=STOCK,
            transport="tcp",
            command=[python, "-m", "bench.servers.stock", "lines"],
            note="a LineReceiver; it buffers for peers that do not read, and knows no deadline",
        ),
        Peer(
            name=UVLOOP,
            transport="tcp",
            command=[python, "-m", "bench.servers.aio", "uvloop", "lines"],
            note="a Protocol that splits lines; the same",
            missing=None if tools.uvloop else "uvloop is not installed (dependency group bench)",
        ),
    ]


def spent(pid: int) -> float:
    """Seconds that the process has run, to the nanosecond (proc_pid_schedstat(5))."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


def connect(server: Server) -> socket.socket:
    """A greeted connection."""
    peer = socket.create_connection((HOST, server.port), timeout=PATIENCE)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not peer.recv(200).startswith(b"Hello"):
        raise ConnectionError("it does not greet")
    return peer


def talk(server: Server, connections: int, in_flight: int, seconds: float) -> Turn:
    """A closed loop: a new message for each answer."""
    talkers = {peer.fileno(): peer for peer in (connect(server) for _ in range(connections))}
    poll = select.epoll()
    for descriptor, peer in talkers.items():
        peer.setblocking(False)
        poll.register(descriptor, select.EPOLLIN)
        peer.send(REQUEST * in_flight)
    answered, cpu, began = 0, 0.0, time.monotonic()
    start, warm = began, True
    while (now := time.monotonic()) < start + seconds:
        if warm and now >= began + _WARM:
            warm, answered, start, cpu = False, 0, now, spent(server.pid)
        for descriptor, _ in poll.poll(PATIENCE):
            peer = talkers[descriptor]
            count = peer.recv(1 << 18).count(b"\n")
            answered += count
            if count:
                peer.send(REQUEST * count)
    cpu = spent(server.pid) - cpu
    for peer in talkers.values():
        peer.close()
    poll.close()
    return Turn(server.peer.name, connections, in_flight, cpu / answered, answered / seconds)


def held(server: Server) -> float:
    """Bytes of the server for each of many greeted connections that then are silent."""
    server.settle()
    before = server.memory()
    kept = [connect(server) for _ in range(HELD)]
    each = (server.memory() - before) / HELD
    for peer in kept:
        peer.close()
    return each


def ratio(turns: Sequence[Turn], other: str, connections: int, in_flight: int) -> Spread | None:
    """Processor time per message of greetsvc by that of another, over the rounds."""
    ours, theirs = (
        [one.cpu for one in turns if (one.peer, one.connections, one.in_flight) == (name, connections, in_flight)]
        for name in (GREETSVC, other)
    )
    return Spread.of(mine / its for mine, its in zip(ours, theirs, strict=False))


def gates(turns: Sequence[Turn], memory: dict[str, list[float]]) -> list[Gate]:
    """The promises about talking connections."""
    found = []
    for connections, in_flight in SCENARIOS:
        what = f"{connections} talking, {in_flight} in flight: CPU per message"
        found.append(Gate(f"{what} / stock LineReceiver", 1.0, ratio(turns, STOCK, connections, in_flight)))
        found.append(Gate(f"{what} / uvloop", 1.5, ratio(turns, UVLOOP, connections, in_flight)))
    pairs = zip(memory.get(GREETSVC, ()), memory.get(STOCK, ()), strict=False)
    found.append(
        Gate(
            f"Memory per held connection, {HELD:,} of them / stock", 1.2, Spread.of(ours / its for ours, its in pairs)
        )
    )
    return found


def markdown(turns: Sequence[Turn], memory: dict[str, list[float]]) -> str:
    """The report."""
    lines = ["# Talking connections", "", "| promise | at most | measured | |", "|---|---|---|---|"]
    for gate in gates(turns, memory):
        spread = gate.measured
        shown = f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})" if spread else "-"
        lines.append(f"| {gate.words} | {gate.at_most} | {shown} | {gate.verdict} |")
    lines += ["", "| server | connections | in flight | µs of CPU per message | messages per second |"]
    lines.append("|---|---|---|---|---|")
    for connections, in_flight in SCENARIOS:
        for name in dict.fromkeys(turn.peer for turn in turns):
            mine = [
                one for one in turns if (one.peer, one.connections, one.in_flight) == (name, connections, in_flight)
            ]
            cpu, rate = Spread.of(one.cpu * 1e6 for one in mine), Spread.of(one.rate for one in mine)
            if cpu and rate:
                lines.append(f"| {name} | {connections} | {in_flight} | {cpu.median:.2f} | {rate.median:,.0f} |")
    lines += ["", "| server | bytes per held connection |", "|---|---|"]
    lines += [f"| {name} | {sorted(each)[len(each) // 2]:,.0f} |" for name, each in memory.items() if each]
    return "\n".join([*lines, ""])


def measure(cores: Cores, folder: Path, rounds: int, seconds: float) -> tuple[list[Turn], dict[str, list[float]]]:
    """All rounds."""
    found = [peer for peer in peers(Tools.of_this_machine(None)) if peer.missing is None]
    turns: list[Turn] = []
    memory: dict[str, list[float]] = {peer.name: [] for peer in found}
    for number in range(rounds):
        order = found[number % len(found) :] + found[: number % len(found)]
        with ExitStack() as running:
            servers = [running.enter_context(Server(one, cores, folder / f"{one.name}.log")) for one in order]
            for connections, in_flight in SCENARIOS:
                turns += [talk(server, connections, in_flight, seconds) for server in servers]
        for one in order:  # anew: what a server has freed before would be used first
            with Server(one, cores, folder / f"{one.name}.log") as server:
                memory[one.name].append(held(server))
    return turns, memory


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.talking", description="Measure talking connections.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--gate", action="store_true", help="exit with status 1 when a promise is not kept")
    parser.add_argument("--out", type=Path, help="the folder for the results")
    asked = parser.parse_args(words)
    raise_file_limit()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="greetsvc-bench-") as name:
        turns, memory = measure(cores, Path(name), asked.rounds, asked.seconds)
    out = asked.out or Path(__file__).parent / "results"
    out.mkdir(parents=True, exist_ok=True)
    (out / "talking.md").write_text(markdown(turns, memory), encoding="utf-8")
    print(markdown(turns, memory))
    return int(asked.gate and any(gate.kept is False for gate in gates(turns, memory)))


if __name__ == "__main__":
    sys.exit(main())
