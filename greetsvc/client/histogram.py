"""A small histogram of durations with percentiles: log buckets, at most 1 % off, mergeable."""

from __future__ import annotations

import math
from collections import Counter
from math import ceil, log

__all__ = ["RELATIVE_ERROR", "Histogram"]

RELATIVE_ERROR = 0.01

_GROWTH = math.log1p(2 * 0.0099 / (1 - 0.0099))
"""The logarithm of the ratio between bucket limits; a hair under what 1 % needs, which leaves room for rounding."""

_SHORTEST = 1e-9


class Histogram:
    """How often which duration came.

    A bucket holds the durations between two powers of one ratio and stands for the point between them that is at most
    1 % from either (relative). Two histograms of any origin have the same buckets, so adding their counts merges
    them. Count, sum, least and greatest are exact. Durations below 1 ns count as 1 ns.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.greatest = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, *durations: float) -> None:
        """Count durations, in seconds: many at once take a third of the time, each."""
        if not durations:
            return
        least = min(durations)
        if least < _SHORTEST:
            self.add(*(max(_SHORTEST, seconds) for seconds in durations))
            return
        self.count += len(durations)
        self.total += sum(durations)
        self.least = min(self.least, least)
        self.greatest = max(self.greatest, *durations)
        self._buckets.update([ceil(log(seconds) / _GROWTH) for seconds in durations])

    def merge(self, other: Histogram) -> None:
        """Count all that ``other`` has counted."""
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self._buckets.update(other._buckets)

    @property
    def mean(self) -> float | None:
        """The mean duration; None when nothing was counted."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The duration that ``percent`` of them do not exceed (nearest rank); None when nothing was counted."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for middle, count in self.buckets():
            seen += count
            if seen >= rank:
                return min(max(middle, self.least), self.greatest)
        return None

    def buckets(self) -> list[tuple[float, int]]:
        """The duration that each bucket stands for, in seconds, and how many it holds, the shortest first."""
        return [
            (2 * math.exp(bucket * _GROWTH) / (1 + math.exp(_GROWTH)), self._buckets[bucket])
            for bucket in sorted(self._buckets)
        ]
