"""What all reports share: their interface, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Histogram, RunStats
from greetsvc.client.words import ENDINGS
from greetsvc.console import Lines

__all__ = ["PERCENTILES", "Report", "counts", "decimal", "ending_notes", "json_seconds", "lost_requests", "spread"]

PERCENTILES: dict[str, float] = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9}


class Report(Protocol):
    """A report on probes. Pure: it returns what to write."""

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """What to write about one probe; ``flaws`` say what is wrong with it besides a failure."""

    def end(self, stats: RunStats) -> Lines:
        """What to write when the run is over, or was stopped; nothing by default."""
        return Lines()


def ending_notes(greeting: Greeting) -> list[str]:
    """A note when the connection did not end with a FIN after a whole greeting."""
    return [ENDINGS[greeting.closed][1]] if greeting.closed in ENDINGS and not greeting.cut_short else []


def lost_requests(greeting: Greeting) -> str:
    """How many datagram requests it took, and how many of them were lost."""
    took = "" if greeting.took is None else f"; the answer took {1000 * greeting.took:.3f} ms"
    return f"{len(greeting.attempts)} requests were sent, {greeting.requests_lost} of them lost{took}"


def decimal(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, but all of its whole part; never with an exponent."""
    return f"{Decimal(f'{value:.{digits}g}'):f}" if round(value) < 10**digits else f"{value:.0f}"


def counts(sent: int, greeted: int, lost: int) -> str:
    """What was sent, greeted and lost, in words."""
    return f"{sent} sent, {greeted} greeted, {lost} lost ({100 * lost / sent if sent else 0:.3g} %)"


def spread(seconds: Histogram) -> dict[str, float | None]:
    """Least, mean, percentiles and greatest, by name; None where nothing was counted."""
    return {
        "min": seconds.least if seconds.count else None,
        "mean": seconds.mean,
        **{name: seconds.percentile(percentile) for name, percentile in PERCENTILES.items()},
        "max": seconds.greatest if seconds.count else None,
    }


def json_seconds(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Times as JSON has them: to the microsecond."""
    return {name: None if value is None else round(value, 6) for name, value in values.items()}
