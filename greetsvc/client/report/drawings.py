"""Drawings of the times of a run, as text: a sparkline, and the bars of a histogram. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import define, field

from greetsvc.client.stats import Histogram
from greetsvc.client.words import decimal

__all__ = ["LOST", "Trail", "bars", "sparkline"]

LOST = "x"
"""The mark in a sparkline for a cell in which something was lost."""

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MAX_ROWS = 10
_MIN_ROW = 0.02
"""Rows are at least 2 % apart: as wide as a bucket of the histogram."""


@define
class Trail:
    """The times of a run in their order, in a bounded number of cells.

    A cell stands for ``width`` probes and holds their longest time, or None when one of them was lost. When all
    ``cells`` are full, each pair of cells is merged: even an endless run keeps its whole history.
    """

    cells: int = 60
    width: int = 1
    _full: list[float | None] = field(factory=list)
    _filling: list[float | None] = field(factory=list)

    def add(self, seconds: float | None) -> None:
        """Add the time of the next probe; None when it was lost."""
        self._filling.append(seconds)
        if len(self._filling) < self.width:
            return
        self._full.append(_worst(self._filling))
        self._filling = []
        if len(self._full) == self.cells:
            self._full = [_worst(self._full[at : at + 2]) for at in range(0, self.cells, 2)]
            self.width *= 2

    @property
    def values(self) -> list[float | None]:
        """All cells; the last one may stand for fewer probes."""
        return [*self._full, *([_worst(self._filling)] if self._filling else [])]


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def sparkline(values: Sequence[float | None]) -> str:
    """A character for each value, scaled from the least to the greatest; `LOST` for None."""
    known = [value for value in values if value is not None]
    low, top = min(known, default=0.0), len(_LEVELS) - 1
    span = max(known, default=0.0) - low or 1.0
    levels = [None if value is None else min(top, int(len(_LEVELS) * (value - low) / span)) for value in values]
    return "".join(LOST if level is None else _LEVELS[level] for level in levels)


def bars(histogram: Histogram, width: int) -> list[str]:
    """A line for each range of times (they grow by one ratio), with a bar and the count."""
    if not histogram.count:
        return []
    low, high = histogram.least, histogram.greatest
    ratio = math.log(high / low)
    rows = max(1, min(_MAX_ROWS, histogram.count, math.ceil(ratio / _MIN_ROW)))
    counts = [0] * rows
    for seconds, count in histogram.buckets():
        at = int(rows * math.log(max(seconds, low) / low) / ratio) if ratio else 0
        counts[min(at, rows - 1)] += count
    edges = [1000 * low * math.exp(ratio * at / rows) for at in range(rows + 1)]
    labels = [f"{decimal(edges[at]):>7} to {decimal(edges[at + 1]):>6} ms" for at in range(rows)]
    room = max(8, width - len(labels[0]) - len(str(max(counts))) - 4)
    most = max(counts)
    return [f"{label}  {_bar(count / most, room)} {count}" for label, count in zip(labels, counts, strict=True)]


def _bar(share: float, width: int) -> str:
    eighths = math.ceil(share * width * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(1) if eighths else ""
