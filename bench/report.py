"""The run as Markdown. Pure: results in, text out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from bench.gates import gates
from bench.peers import FLOOR, GREETSVC, HEALTH_CHECK, REACTOR, STOCK
from bench.plan import AT_RATE, ONE_ADDRESS, STAYING, STEADY, name_of
from bench.results import SHARES, Results
from bench.sample import Sample, Spread, percentile

STEADY_NAME = name_of(STEADY)
NOTHING = "n/a"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column reads left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(value: Spread | None, scale: float = 1, digits: int = 1) -> str:
    """A median, and the lowest and highest round."""
    if value is None:
        return NOTHING
    return f"{value.median * scale:.{digits}f} ({value.low * scale:.{digits}f} to {value.high * scale:.{digits}f})"


def duration(seconds: float) -> str:
    """A latency, in the unit that a person would choose."""
    if not math.isfinite(seconds):
        return NOTHING
    for bound, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < bound:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def median(samples: Sequence[Sample], what: Callable[[Sample], float]) -> float:
    """The median round of ``what``; nan without samples."""
    value = Spread.of(what(sample) for sample in samples)
    return value.median if value else math.nan


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{value * 100:.0f} %" if math.isfinite(value) else NOTHING


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def _failures(samples: Sequence[Sample]) -> str:
    counts = {how: sum(sample.failed[how] for sample in samples) for how in samples[0].failed} if samples else {}
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count) or "none"


def gate_table(results: Results) -> str:
    """The promises and what became of them."""
    rows = [
        [gate.words, f"{gate.at_most:.2f}", spread(gate.measured, digits=2), gate.verdict] for gate in gates(results)
    ]
    return table(["", "at most", "measured: median (lowest to highest round)", ""], rows)


def cpu_table(results: Results, transport: str) -> str:
    """What one greeting costs, and who was busy meanwhile."""
    rows = []
    for peer in results.peers(transport):
        samples = results.of(transport, peer, STEADY_NAME)
        rows.append(
            [
                peer,
                spread(results.cpu(transport, peer, STEADY_NAME), 1e6),
                spread(results.ratio(transport, peer, FLOOR, STEADY_NAME), digits=2),
                spread(results.ratio(transport, peer, STOCK, STEADY_NAME), digits=2),
                percent(median(samples, lambda sample: sample.user_share)),
                _whole(median(samples, lambda sample: sample.rate)),
                percent(median(samples, lambda sample: sample.server_busy)),
                percent(median(samples, lambda sample: sample.load_busy)),
                _failures(samples),
            ]
        )
    header = ["", "CPU µs a greeting", "/ C floor", "/ stock Twisted", "in user mode", "greetings/s", "server's core"]
    return table([*header, "load's core", "failed"], rows)


def latency_table(results: Results, transport: str) -> str:
    """How long a peer waits when everybody gets the same work."""
    rows = []
    for peer in results.peers(transport):
        samples = results.of(transport, peer, AT_RATE)
        latency = results.latency(transport, peer, AT_RATE)
        rows.append(
            [
                peer,
                *[duration(percentile(latency, share)) for share in SHARES.values()],
                spread(results.cpu(transport, peer, AT_RATE), 1e6),
                spread(results.ratio(transport, peer, FLOOR, AT_RATE), digits=2),
                percent(median(samples, lambda sample: sample.server_busy)),
                _failures(samples),
            ]
        )
    header = ["", "p50", "p90", "p99", "p99.9", "CPU µs a greeting", "/ C floor", "server's core", "failed"]
    return table(header, rows)


def growth_table(results: Results, transport: str, cell: Callable[[str, str], str]) -> str:
    """One figure for each server and number of peers."""
    scenarios = [name for name in results.scenarios(transport) if name.endswith((" peer", " peers"))]
    rows = [[peer, *[cell(peer, scenario) for scenario in scenarios]] for peer in results.peers(transport)]
    return table(["", *scenarios], rows)


def _growth(results: Results, transport: str) -> list[str]:
    def cpu(peer: str, scenario: str) -> str:
        value = results.cpu(transport, peer, scenario)
        return f"{value.median * 1e6:.1f}" if value else NOTHING

    def rate(peer: str, scenario: str) -> str:
        return _whole(median(results.of(transport, peer, scenario), lambda sample: sample.rate))

    def latency(peer: str, scenario: str) -> str:
        buckets = results.latency(transport, peer, scenario)
        return f"{duration(percentile(buckets, 0.5))}, {duration(percentile(buckets, 0.99))}"

    return [
        f"CPU µs a greeting, {transport.upper()}:",
        growth_table(results, transport, cpu),
        "Greetings a second:",
        growth_table(results, transport, rate),
        "Latency in the closed loop, p50 and p99 (most of it is waiting for one's turn):",
        growth_table(results, transport, latency),
    ]


def _staying(results: Results) -> str:
    rows = []
    for peer in results.peers("tcp"):
        samples = results.of("tcp", peer, STAYING)
        if samples:
            rate = _whole(median(samples, lambda sample: sample.rate))
            rows.append([peer, spread(results.cpu("tcp", peer, STAYING), 1e6), rate, _failures(samples)])
    return table(["", "CPU µs a greeting", "greetings/s", "failed"], rows)


def _load_runs(results: Results) -> str:
    rows = []
    for name, ratio in results.load_ratios(ONE_ADDRESS).items():
        rows.append(["greetings/s" if name == "rate" else name, spread(ratio, digits=2)])
    return table(["", "`greet` / generator"], rows)


def _held(results: Results) -> str:
    rows = []
    for peer, note in results.notes["held"].items():
        kept = [held.kept for held in results.held if held.peer == peer]
        rows.append(
            [
                peer,
                spread(results.memory(peer), 1 / 1024, 2),
                spread(results.memory_ratio(peer, STOCK), digits=2),
                _whole(min(kept)) if kept else NOTHING,
                note,
            ]
        )
    return table(["", "KiB a connection", "/ stock Twisted", "held at least", "how it holds"], rows)


def _starts(results: Results) -> str:
    rows = [[peer, spread(results.start(peer), 1e3, 0), note] for peer, note in results.notes["starts"].items()]
    return table(["", "ms", "ready means"], rows)


def _proof(results: Results) -> str:
    rates = {
        peer: median(results.of("tcp", peer, STEADY_NAME), lambda one: one.rate) for peer in results.peers("tcp")
    }
    fastest = max(rates, key=lambda peer: rates[peer], default="nobody")
    limited = [
        peer
        for transport in ("tcp", "udp")
        for peer in results.peers(transport)
        if median(results.of(transport, peer, STEADY_NAME), lambda sample: sample.server_busy) < 0.95
    ]
    others = median([one for samples in results.samples.values() for one in samples], lambda sample: sample.others)
    language = results.machine["load generator"]
    most = _whole(rates.get(fastest, math.nan))
    below = ", ".join(dict.fromkeys(limited)) or "none"
    return (
        f"The load generator ({language}) has a core of its own. Against {fastest} it made {most} TCP visits a "
        "second; a server that took fewer was not limited by it, and its own core was full, as the column “server's "
        f"core” says. Below 95 % were: {below}. For those the rate is a lower bound. CPU per greeting is what the "
        "kernel says the server ran between two readings of its clock (resolution 1 ns; user and system are told "
        "apart by ticks of 10 ms), so it holds for them too. The same figure at a fixed rate, which limits nobody, "
        f"stands beside the latencies. Other work took {percent(others)} of the server's core."
    )


def markdown(results: Results) -> str:
    """The whole report."""
    machine = table(["", ""], results.machine.items())
    who = table(
        ["", "", ""], [[t.upper(), peer, note] for t in ("tcp", "udp") for peer, note in results.notes[t].items()]
    )
    missing = [f"- Not measured: {name}: {reason}" for name, reason in results.missing.items()]
    parts = [
        "# greetsvc, side by side",
        "Made by `make bench`. Every figure is the median of interleaved rounds, with the lowest and highest round.",
        *(["\n".join(missing)] if missing else []),
        "## What is promised",
        gate_table(results),
        f"## TCP: {STEADY} peers, each again and again",
        "![CPU per greeting](cpu.svg)",
        cpu_table(results, "tcp"),
        f"## UDP: {STEADY} source ports, marked requests of 64 bytes",
        cpu_table(results, "udp"),
        "## Latency at 5,000 greetings a second",
        "![Latency](latency.svg)",
        "Counted from the time at which each visit was meant to begin. TCP, to the first byte:",
        latency_table(results, "tcp"),
        "UDP:",
        latency_table(results, "udp"),
        "## From 1 to 10,000 peers",
        "![Growth](growth.svg)",
        *_growth(results, "tcp"),
        "10,000 TCP peers that keep their end open for half a second after the greeting:",
        _staying(results),
        "UDP has one request under way for each peer, and 128 in all: the kernel's receive buffer holds no more.",
        *_growth(results, "udp"),
        "## Memory for each held connection",
        "Proportional set size with 5,000 peers, less what it was before, in a fresh process that had greeted 100. "
        "The kernel's own memory for the sockets is not in it.",
        _held(results),
        "## Ready after start",
        _starts(results),
        "## A health check",
        table(["", "ms of CPU"], [[name, spread(results.command(name), 1e3, 0)] for name in (HEALTH_CHECK, REACTOR)]),
        "## Does the load generator limit the servers?",
        _proof(results),
        f"## `greet` under load beside the generator: {GREETSVC} over TCP, {ONE_ADDRESS}",
        _load_runs(results),
        "## Who was measured",
        who,
        "## Where",
        machine,
    ]
    return "\n\n".join(parts) + "\n"
