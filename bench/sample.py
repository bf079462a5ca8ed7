"""What one turn of one server gave, and the arithmetic on many of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from attrs import frozen

Buckets = Sequence[tuple[int, int]]
"""Latencies as (lower edge in ns, count), in rising order."""


def percentile(buckets: Buckets, share: float) -> float:
    """The latency in seconds that ``share`` (0 to 1) of the visits did not exceed; nan when there were none."""
    total = sum(count for _, count in buckets)
    wanted = max(1, math.ceil(share * total))
    for edge, count in buckets:
        wanted -= count
        if wanted <= 0:
            return edge / 1e9
    return math.nan


def merged(many: Iterable[Buckets]) -> Buckets:
    """The latencies of several turns together."""
    counts: dict[int, int] = {}
    for buckets in many:
        for edge, count in buckets:
            counts[edge] = counts.get(edge, 0) + count
    return sorted(counts.items())


@frozen
class Spread:
    """A median and how far the rounds lay apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The spread of ``values``; None when there are none that are numbers."""
        known = [value for value in values if math.isfinite(value)]
        return cls(median(known), min(known), max(known)) if known else None


@frozen
class Sample:
    """One turn: one server, one scenario, one round. Times in seconds.

    Where a scenario goes round three times in a round, ``round`` counts in thirds. ``others`` is how much of the
    server's core something else took meanwhile, 0 to 1.
    """

    peer: str
    scenario: str
    round: float
    seconds: float
    greeted: int
    failed: Mapping[str, int]
    server_cpu: float
    user_share: float
    load_worked: float
    others: float
    latency: Buckets

    @property
    def times(self) -> tuple[float, float]:
        """The latency that half of the visits, and that 99 % of them, did not exceed; seconds."""
        return percentile(self.latency, 0.5), percentile(self.latency, 0.99)

    @property
    def cpu(self) -> float:
        """Processor time of the server for one greeting, seconds."""
        return self.server_cpu / self.greeted if self.greeted else math.nan

    @property
    def rate(self) -> float:
        """Greetings a second."""
        return self.greeted / self.seconds

    @property
    def server_busy(self) -> float:
        """How much of its core the server used, 0 to 1."""
        return self.server_cpu / self.seconds

    @property
    def load_busy(self) -> float:
        """For how much of the time the load generator had something to do, 0 to 1."""
        return self.load_worked / self.seconds


def ratios(over: Iterable[Sample], under: Iterable[Sample]) -> Spread | None:
    """Processor time per greeting of one server over another's, round by round: what drifts, drifts for both."""
    theirs = {sample.round: sample.cpu for sample in under}
    return Spread.of(sample.cpu / theirs[sample.round] for sample in over if theirs.get(sample.round))
