"""What all reports share: their interface, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from greetsvc.client.evidence.direction import Back, Direction, There
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Histogram, RunStats
from greetsvc.client.words import ENDINGS, decimal
from greetsvc.console import Lines

__all__ = [
    "PERCENTILES",
    "Report",
    "counts",
    "direction_lines",
    "ending_notes",
    "json_seconds",
    "lost_requests",
    "spread",
]

PERCENTILES: dict[str, float] = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9}


class Report(Protocol):
    """A report on probes. Pure: it returns what to write.

    ``is_for_programs``: it says also that a probe was stopped, which a person who pressed Ctrl-C knows.
    """

    is_for_programs: ClassVar[bool] = False

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


def counts(sent: int, greeted: int, lost: int) -> str:
    """What was sent, greeted and lost, in words."""
    return f"{sent} sent, {greeted} greeted, {lost} lost ({decimal(100 * lost / sent if sent else 0)} %)"


def direction_lines(found: Direction | None, unmeasured: str) -> list[str]:
    """What is known of the way there and of the way back, a line each; or why it is not known."""
    if found is None:
        return [f"there, back: not known, {unmeasured}"]
    lines = [
        f"there: {_way(found.there, found.there.sent - found.unknown)}",
        f"back: {_way(found.back, found.back.sent)}" + (f", {found.back.late} late" if found.back.late else ""),
    ]
    if found.unknown:
        number, verb = found.unknown, "was" if found.unknown == 1 else "were"
        which = "the last request" if number == 1 else f"the last {number} requests"
        if found.refused:
            which = f"{number} of the last {number + found.refused} requests"
        lines.append(f"{which} {verb} not answered: lost there or back, that is not known")
    return lines


def _way(way: There | Back, sent: int) -> str:
    """One direction; ``sent`` are the datagrams whose fate is known."""
    words = [f"{sent} sent", f"{way.lost} lost ({decimal(100 * way.lost / sent if sent else 0)} %)"]
    words += [f"{way.duplicated} doubled", f"{way.reordered} reordered"]
    if way.variation is not None:
        words.append(f"variation {way.variation * 1000:.3f} ms")
    known = (("hops", way.hops), ("DSCP", way.dscp), ("ECN", way.ecn))
    return ", ".join([*words, *(f"{name} {value}" for name, value in known if value is not None)])


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
