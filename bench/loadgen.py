"""The load generator as the bench sees it: in C where there is a compiler, else in Python, and it says which."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from bench.plan import Scenario
from bench.process import ROOT, Server, core_time
from bench.results import LoadRun
from bench.sample import Sample

HERE = Path(__file__).parent
FAILURES = ("reset", "lost", "wrong", "late")


def compiled(source: Path, folder: Path) -> Path | None:
    """The program made from ``source``; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = folder / source.stem
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


@frozen
class Load:
    """A load generator, ready to run on its core."""

    command: Sequence[str]
    language: str
    core: int

    @classmethod
    def build(cls, folder: Path, core: int) -> Load:
        """The fastest that this machine can make."""
        program = compiled(HERE / "load.c", folder)
        if program is not None:
            return cls([str(program)], "C", core)
        return cls(
            [sys.executable, "-m", "bench.load"], "Python: no C compiler here, so it limits the faster servers", core
        )

    def _started(self, mode: str, server: Server, peers: int, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.command, mode, server.peer.host, str(server.port), str(peers), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.sched_setaffinity(process.pid, {self.core})
        return process

    def run(self, server: Server, scenario: Scenario, number: float) -> Sample:
        """One turn against ``server``."""
        before, busy_before = server.times(), core_time(server.core)
        process = self._started(
            server.peer.transport,
            server,
            scenario.peers,
            *("--seconds", str(scenario.seconds), "--warm", str(scenario.warm), "--rate", str(scenario.rate)),
            *(
                "--sources",
                str(scenario.sources),
                "--stay",
                str(scenario.stay),
                "--pid",
                ",".join(map(str, server.pids())),
            ),
            *server.peer.asks,
        )
        answer, _ = process.communicate(timeout=scenario.seconds + scenario.warm + 30)
        if process.returncode:
            raise RuntimeError(f"the load generator ended with status {process.returncode}")
        user, system = (after - at for after, at in zip(server.times(), before, strict=True))
        busy, ticks = (after - at for after, at in zip(core_time(server.core), busy_before, strict=True))
        seen: dict[str, Any] = json.loads(answer)
        return Sample(
            peer=server.peer.name,
            scenario=scenario.name,
            round=number,
            seconds=seen["seconds"],
            greeted=seen["greeted"],
            failed={reason: seen[reason] for reason in FAILURES},
            server_cpu=seen["server_cpu"],
            user_share=user / (user + system or 1),
            load_worked=seen["load_busy"],
            others=max(0, busy - user - system) / (ticks or 1),
            latency=seen["latency"],
        )

    def greet(self, server: Server, scenario: Scenario, number: float) -> LoadRun:
        """The same against ``server`` with a load run of `greet`, on the generator's core."""
        command = [
            *(str(Path(sys.executable).with_name("greet")), "--json", f"{server.peer.host}:{server.port}"),
            *("--duration", str(scenario.seconds), "--concurrency", str(scenario.peers)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=scenario.seconds + 60)
        if not done.stdout:
            raise RuntimeError(f"greet said nothing but {done.stderr.strip()!r}")
        summary = json.loads(done.stdout.splitlines()[-1])["summary"]
        times = summary["seconds"]
        return LoadRun(server.peer.name, number, summary["rate"], times["p50"], times["p99"], summary["lost"])

    def held(self, server: Server, peers: int) -> tuple[int, float]:
        """(connections that ``server`` holds, bytes for each) while ``peers`` of them keep their ends open.

        The first hundred are not counted: they pay for what is allocated once.
        """
        with self._holding(server, 100):
            pass
        descriptors = server.settle()
        memory = server.memory()
        with self._holding(server, peers):
            kept = server.descriptors() - descriptors
            taken = server.memory() - memory
        return kept, taken / kept if kept > 0 else float("nan")

    @contextmanager
    def _holding(self, server: Server, peers: int) -> Iterator[None]:
        process = self._started("hold", server, peers)
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()
