"""`python -m bench`: measure, and write Markdown, JSON and plots to bench/results/."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import plot, report, talking
from bench.gates import gates
from bench.loadgen import HERE, Load, compiled
from bench.machine import Cores, description
from bench.measure import Bench, progress
from bench.peers import (
    GREETSVC,
    STOCK,
    Peer,
    Tools,
    holding_peers,
    starting_peers,
    tcp_peers,
    udp_peers,
)
from bench.plan import MAIN, Plan
from bench.process import raise_file_limit
from bench.results import Results


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure greetsvc side by side with others.")
    parser.add_argument("--rounds", type=int, help="how many times round (5; 1 with --quick)")
    parser.add_argument(
        "--seconds", type=float, help="the main measured window; others follow (0.8; 0.25 with --quick)"
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="servers whose name contains NAME; repeatable"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short run to see that all is well, into results/quick/"
    )
    parser.add_argument("--gate", action="store_true", help="exit with status 1 when a promise is not kept")
    parser.add_argument("--out", type=Path, help="the folder for the results")
    return parser.parse_args(words)


def chosen(peers: Sequence[Peer], only: Sequence[str] | None) -> list[Peer]:
    """The peers that were asked for."""
    return [peer for peer in peers if not only or any(name in peer.name for name in only)]


def write(results: Results, folder: Path) -> None:
    """All files of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    promises = [
        {
            "gate": gate.words,
            "at_most": gate.at_most,
            "measured": gate.measured and gate.measured.median,
            "verdict": gate.verdict,
        }
        for gate in gates(results)
    ]
    for name, text in {
        "results.md": report.markdown(results),
        "results.json": json.dumps({"gates": promises, **results.as_json()}, indent=1) + "\n",
        "cpu.svg": plot.cpu(results),
        "latency.svg": plot.latency(results),
        "growth.svg": plot.growth(results),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    asked = options(words)
    if sys.platform != "linux":
        progress("bench: reads /proc and epoll; it runs on Linux only")
        return 2
    raise_file_limit()
    machine = description()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    if cores.server == cores.load:
        progress("bench: one core only: the load generator takes its time from the servers")
    plan = Plan.of(
        asked.rounds or (1 if asked.quick else 5),
        (asked.seconds or (0.25 if asked.quick else MAIN)) / MAIN,
        staying=(GREETSVC, STOCK),
        compared=(GREETSVC,),
    )
    with tempfile.TemporaryDirectory(prefix="greetsvc-bench-") as name:
        folder = Path(name)
        tools = Tools.of_this_machine(compiled(HERE / "servers" / "floor.c", folder))
        load = Load.build(folder, cores.load)
        listed = {
            "tcp": tcp_peers(tools, folder),
            "udp": udp_peers(tools),
            "held": holding_peers(tools),
            "starts": starting_peers(),
        }
        notes = {part: {peer.name: peer.note for peer in peers} for part, peers in listed.items()}
        results = Results(machine | {"load generator": load.language}, notes, workers_apart=cores.third is not None)
        bench = Bench(plan, load, cores, folder, results)
        bench.run(*[chosen(peers, asked.only) for peers in listed.values()])
    out = asked.out or HERE / "results" / ("quick" if asked.quick else "")
    write(results, out)
    print(report.gate_table(results))
    print(f"\nThe whole report: {os.path.relpath(out / 'results.md')}")
    failed = any(gate.kept is False for gate in gates(results))
    if not asked.only:
        rounds, seconds = ("1", "0.2") if asked.quick else (str(plan.rounds), "0.5")
        words = ["--rounds", rounds, "--seconds", seconds, "--out", str(out), "--gate"]
        failed = bool(talking.main(words)) or failed
    return int(asked.gate and failed)


if __name__ == "__main__":
    sys.exit(main())
