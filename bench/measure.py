"""Runs the rounds: each scenario goes round all servers before the next one begins; each round starts elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bench.loadgen import Load
from bench.machine import Cores
from bench.peers import GREETSVC, Peer, commands
from bench.plan import ONE_ADDRESS, Plan, Scenario
from bench.process import NotStartedError, Server, cpu_of
from bench.results import Command, Held, Results, Start

T = TypeVar("T")


def rotated(peers: Sequence[T], number: int) -> list[T]:
    """``peers``, beginning with another one in each round."""
    at = number % len(peers) if peers else 0
    return [*peers[at:], *peers[:at]]


def progress(words: str) -> None:
    """A line for whoever waits."""
    print(words, file=sys.stderr, flush=True)


class Bench:
    """One run of ``plan`` on this machine, into ``results``."""

    def __init__(self, plan: Plan, load: Load, cores: Cores, folder: Path, results: Results) -> None:
        self._plan = plan
        self._load = load
        self._cores = cores
        self._folder = folder
        self._results = results

    def run(
        self, tcp: Sequence[Peer], udp: Sequence[Peer], holding: Sequence[Peer], starting: Sequence[Peer]
    ) -> None:
        """All rounds."""
        for peer in starting:  # once unmeasured: files get cached, and Python compiles what it has not yet
            self._with(peer, lambda *_: None, 0)
        for number in range(self._plan.rounds):
            said = f"round {number + 1} of {self._plan.rounds}"
            for peer in rotated(starting, number):
                self._with(peer, self._started, number)
            for peer in rotated(holding, number):
                self._with(peer, self._held, number)
            self._side_by_side(f"{said}, TCP", rotated(tcp, number), self._plan.tcp, number)
            self._side_by_side(f"{said}, UDP", rotated(udp, number), self._plan.udp, number)

    def _start(self, peer: Peer) -> Server | None:
        name = f"{peer.name}, {peer.transport.upper()}"
        missing = self._results.missing
        if peer.missing:
            missing[name] = peer.missing
        if name in missing:
            return None
        try:
            return Server(peer, self._cores, self._folder / "server.log")
        except (NotStartedError, OSError) as reason:
            progress(f"not measured: {name}: {reason}")
            missing[name] = str(reason)
            return None

    def _with(self, peer: Peer, measure: Callable[[Server, int], None], number: int) -> None:
        server = self._start(peer)
        if server is not None:
            with server:
                measure(server, number)

    def _started(self, server: Server, number: int) -> None:
        self._results.starts.append(Start(server.peer.name, number, server.ready_after))
        if server.peer.name == GREETSVC:
            for name, command in commands(server.port).items():
                self._results.commands.append(Command(name, number, cpu_of(command)))

    def _held(self, server: Server, number: int) -> None:
        kept, each = self._load.held(server, self._plan.held)
        self._results.held.append(Held(server.peer.name, number, kept, each))

    def _side_by_side(self, said: str, peers: Iterable[Peer], scenarios: Iterable[Scenario], number: int) -> None:
        with ExitStack() as running:
            servers = [running.enter_context(server) for server in self._running(peers)]
            for scenario in scenarios:
                for time in range(scenario.times):
                    self._once_round(said, rotated(servers, time), scenario, number + time / scenario.times)

    def _once_round(self, said: str, servers: Iterable[Server], scenario: Scenario, number: float) -> None:
        line = []
        for server in servers:
            if scenario.only and server.peer.name not in scenario.only:
                continue
            sample = self._load.run(server, scenario, number)
            self._results.add(server.peer.transport, sample)
            if scenario.name == ONE_ADDRESS and self._load.language == "C":
                self._results.load_runs.append(self._load.greet(server, scenario, number))
            line.append(f"{server.peer.name} {sample.cpu * 1e6:.1f}")
        progress(f"{said}, {scenario.name}: {', '.join(line)} (µs of CPU a greeting)")

    def _running(self, peers: Iterable[Peer]) -> Iterator[Server]:
        for peer in peers:
            server = self._start(peer)
            if server is not None:
                yield server
