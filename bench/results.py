"""Everything that one run found, and the questions that the report asks of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import Factory, asdict, define, frozen

from bench.sample import Buckets, Sample, Spread, merged, percentile, ratios

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


@frozen
class Held:
    """Memory of one server for each connection it holds, in bytes, and how many it held."""

    peer: str
    round: int
    kept: int
    each: float


@frozen
class Start:
    """How long one server took until it was ready, in seconds."""

    peer: str
    round: int
    seconds: float


@frozen
class Command:
    """The processor time of one run of a command, in seconds."""

    name: str
    round: int
    cpu: float


@frozen
class LoadRun:
    """A load run of `greet` against a server, after the same by the generator in C. Times in seconds."""

    peer: str
    round: float
    rate: float
    p50: float
    p99: float
    lost: int


@define
class Results:
    """One run. ``missing`` says of each server that was not measured why."""

    machine: dict[str, str]
    notes: dict[str, dict[str, str]]
    samples: dict[str, list[Sample]] = Factory(lambda: {"tcp": [], "udp": []})
    held: list[Held] = Factory(list)
    starts: list[Start] = Factory(list)
    commands: list[Command] = Factory(list)
    load_runs: list[LoadRun] = Factory(list)
    missing: dict[str, str] = Factory(dict)
    workers_apart: bool = False
    """Whether two workers had a core each."""

    def add(self, transport: str, sample: Sample) -> None:
        """Another turn."""
        self.samples[transport].append(sample)

    def of(self, transport: str, peer: str, scenario: str) -> list[Sample]:
        """All rounds of one server in one scenario."""
        return [one for one in self.samples[transport] if (one.peer, one.scenario) == (peer, scenario)]

    def peers(self, transport: str) -> list[str]:
        """The servers that were measured, in the order in which they are listed."""
        seen = {sample.peer for sample in self.samples[transport]}
        return [name for name in self.notes[transport] if name in seen]

    def scenarios(self, transport: str) -> list[str]:
        """What was measured, in order."""
        return list(dict.fromkeys(sample.scenario for sample in self.samples[transport]))

    def cpu(self, transport: str, peer: str, scenario: str) -> Spread | None:
        """Processor time for one greeting, seconds."""
        return Spread.of(sample.cpu for sample in self.of(transport, peer, scenario))

    def ratio(self, transport: str, over: str, under: str, scenario: str) -> Spread | None:
        """Processor time of one server over another's."""
        return ratios(self.of(transport, over, scenario), self.of(transport, under, scenario))

    def rate_ratio(self, transport: str, over: str, under: str, scenario: str) -> Spread | None:
        """Greetings a second of one server over another's, round by round."""
        return self._round_by_round(transport, over, under, scenario, lambda one: one.rate)

    def p50_ratio(self, transport: str, over: str, under: str, scenario: str) -> Spread | None:
        """Median latency of one server over another's, round by round."""
        return self._round_by_round(transport, over, under, scenario, lambda one: one.times[0])

    def p99_ratio(self, transport: str, over: str, under: str, scenario: str) -> Spread | None:
        """The same for the 99th percentile."""
        return self._round_by_round(transport, over, under, scenario, lambda one: one.times[1])

    def _round_by_round(
        self, transport: str, over: str, under: str, scenario: str, figure: Callable[[Sample], float]
    ) -> Spread | None:
        ours, theirs = (
            {one.round: figure(one) for one in self.of(transport, peer, scenario)} for peer in (over, under)
        )
        return _paired(ours, theirs)

    def growth(self, transport: str, peer: str, few: str, many: str) -> Spread | None:
        """Processor time with many peers over that with few."""
        return ratios(self.of(transport, peer, many), self.of(transport, peer, few))

    def latency(self, transport: str, peer: str, scenario: str) -> Buckets:
        """The latencies of all rounds."""
        return merged(sample.latency for sample in self.of(transport, peer, scenario))

    def memory(self, peer: str) -> Spread | None:
        """Bytes for a held connection."""
        return Spread.of(held.each for held in self.held if held.peer == peer)

    def memory_ratio(self, over: str, under: str) -> Spread | None:
        """Memory of one over another's, round by round."""
        return _paired(
            {held.round: held.each for held in self.held if held.peer == over},
            {held.round: held.each for held in self.held if held.peer == under},
        )

    def start(self, peer: str) -> Spread | None:
        """Seconds until ready."""
        return Spread.of(start.seconds for start in self.starts if start.peer == peer)

    def start_ratio(self, over: str, under: str) -> Spread | None:
        """Start-up of one over another's, round by round."""
        return _paired(
            {start.round: start.seconds for start in self.starts if start.peer == over},
            {start.round: start.seconds for start in self.starts if start.peer == under},
        )

    def command(self, name: str) -> Spread | None:
        """Processor seconds of a command."""
        return Spread.of(one.cpu for one in self.commands if one.name == name)

    def command_ratio(self, over: str, under: str) -> Spread | None:
        """Processor time of one command over another's, round by round."""
        return _paired(
            {one.round: one.cpu for one in self.commands if one.name == over},
            {one.round: one.cpu for one in self.commands if one.name == under},
        )

    def load_ratios(self, scenario: str) -> dict[str, Spread | None]:
        """Greetings a second, p50 and p99 of `greet`'s load runs over those of the generator, round by round."""
        generator = {(one.peer, one.round): one for one in self.samples["tcp"] if one.scenario == scenario}
        pairs = [(run, generator[run.peer, run.round]) for run in self.load_runs]
        return {
            "rate": Spread.of(run.rate / one.rate for run, one in pairs),
            "p50": Spread.of(run.p50 / one.times[0] for run, one in pairs),
            "p99": Spread.of(run.p99 / one.times[1] for run, one in pairs),
        }

    def as_json(self) -> dict[str, Any]:
        """The same for programs: each turn with its percentiles in place of the buckets."""
        return {
            "machine": self.machine,
            "missing": self.missing,
            "samples": {
                transport: [_flat(sample) for sample in samples] for transport, samples in self.samples.items()
            },
            "held": [asdict(held) for held in self.held],
            "starts": [asdict(start) for start in self.starts],
            "commands": [asdict(command) for command in self.commands],
            "load_runs": [asdict(run) for run in self.load_runs],
        }


def _paired(over: Mapping[Any, float], under: Mapping[Any, float]) -> Spread | None:
    return Spread.of(value / under[number] for number, value in over.items() if under.get(number))


def _flat(sample: Sample) -> dict[str, Any]:
    flat = asdict(sample)
    latency: Sequence[tuple[int, int]] = flat.pop("latency")
    return flat | {name: percentile(latency, share) if latency else None for name, share in SHARES.items()}
