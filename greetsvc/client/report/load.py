"""How a load run is told: to a person in 80 columns, and to a program (JSON Lines). Pure."""

from __future__ import annotations

import json
from typing import Any, Protocol

from attrs import asdict, frozen

from greetsvc.client.histogram import Histogram
from greetsvc.client.load.metrics import Account, Second
from greetsvc.client.load.run import Run
from greetsvc.client.report.text import in_seconds, spread
from greetsvc.console import Lines
from greetsvc.printable import one_line

__all__ = ["JsonLoad", "LoadReport", "PlainLoad", "stretches"]

_MOST_STRETCHES = 8


class LoadReport(Protocol):
    """A way of telling of a load run."""

    def begin(self, run: Run) -> Lines:
        """What to write before it."""

    def second(self, number: int, second: Second, in_flight: int) -> Lines:
        """What to write when a second of it is over."""

    def end(self, run: Run) -> Lines:
        """What to write when it is over, or was stopped."""


@frozen
class PlainLoad:
    """For people: a line a second and a summary."""

    def begin(self, run: Run) -> Lines:
        """What is about to be done, and the head of the table."""
        loading, subject = run.loading, one_line(str(run.target))
        pace = f"{run.concurrency} at a time"
        if loading.rate is not None:
            pace = f"{loading.rate:g} a second, at most {pace},"
        head = "".join(f"{name:>10}" for name in ("second", "sent", "greeted", "lost", "in flight"))
        return Lines([f"{subject}: {pace} for {loading.duration:g} s", head])

    def second(self, number: int, second: Second, in_flight: int) -> Lines:
        """A row of the table."""
        row = (number, second.sent, second.greeted, second.lost, in_flight)
        return Lines(["".join(f"{value:>10}" for value in row)])

    def end(self, run: Run) -> Lines:
        """The summary, then what failed and when; warnings go to standard error."""
        account = run.account
        percent = 100 * account.lost / account.sent if account.sent else 0.0
        counts = f"{account.sent} sent, {account.greeted} greeted, {account.lost} lost ({percent:.3g} %)"
        out = ["", f"{counts}, {account.rate:.6g} a second"]
        if account.elapsed < run.loading.duration:
            out.append(f"stopped after {account.elapsed:.3f} s with {account.unfinished} in flight")
        if account.flawed:
            out.append(f"{account.flawed} slow or not as expected")
        out.extend(_times(account))
        out.extend(
            f"{failing.phase}: {one_line(failing.words)} ({failing.name}): {failing.count}"
            for failing in account.failings
        )
        if account.lost:
            out.append(f"lost by the second in which they began: {_in_words(account)}")
        subject = one_line(str(run.target))
        return Lines(out, [f"greet: {subject}: {warning}" for warning in account.warnings(run.concurrency)])


def _times(account: Account) -> list[str]:
    if not account.greeted:
        return []
    rows = [("from intended start", account.corrected), ("from actual start", account.uncorrected)]
    if account.uncorrected is None:
        rows = [("time", account.corrected)]
    names = ("min", "mean", "p50", "p90", "p99", "p999", "max")
    head = f"{'milliseconds':<20}" + "".join(f"{name:>8}" for name in names)
    return [head, *(f"{label:<20}" + _row(histogram) for label, histogram in rows if histogram is not None)]


def _row(histogram: Histogram) -> str:
    return "".join(f"{_ms(value):>8}" for value in spread(histogram).values())


def _ms(seconds: float | None) -> str:
    """Four digits at least, and as wide as they need."""
    value = 1000 * (seconds or 0.0)
    return f"{value:.3f}" if value < 1000 else f"{value:.0f}"


def stretches(lost_in: dict[int, int]) -> list[tuple[int, int, int]]:
    """The stretches of seconds, numbered from 1, in which something was lost: first, last, how many."""
    found: list[tuple[int, int, int]] = []
    for second in sorted(lost_in):
        number, count = second + 1, lost_in[second]
        if found and found[-1][1] == second:
            first, _, before = found.pop()
            found.append((first, number, before + count))
        else:
            found.append((number, number, count))
    return found


def _in_words(account: Account) -> str:
    found = stretches(account.lost_in)
    words = [
        f"{count} in {first}" if first == last else f"{count} in {first} to {last}"
        for first, last, count in found[:_MOST_STRETCHES]
    ]
    rest = sum(count for _, _, count in found[_MOST_STRETCHES:])
    return ", ".join([*words, *([f"{rest} later"] if rest else [])])


@frozen
class JsonLoad:
    """For programs: an object for each second, and the summary object."""

    def begin(self, run: Run) -> Lines:
        """Nothing: the summary says it."""
        return Lines()

    def second(self, number: int, second: Second, in_flight: int) -> Lines:
        """The object of one second."""
        return Lines([json.dumps({"second": {"number": number, **asdict(second), "in_flight": in_flight}})])

    def end(self, run: Run) -> Lines:
        """The summary object: its keys are those of a run of probes, and more."""
        account, paced = run.account, run.account.paced
        summary: dict[str, Any] = {
            "sent": account.sent,
            "greeted": account.greeted,
            "lost": account.lost,
            "rate": round(account.rate, 3),
            "seconds": in_seconds(spread(account.corrected)),
            "uncorrected": None if account.uncorrected is None else in_seconds(spread(account.uncorrected)),
            "target": str(run.target),
            "duration": run.loading.duration,
            "concurrency": run.concurrency,
            "asked_rate": run.loading.rate,
            "elapsed": round(account.elapsed, 3),
            "unfinished": account.unfinished,
            "missed": account.missed,
            "flawed": account.flawed,
            "late": None if paced is None else {"visits": paced.late, "worst": round(max(0.0, paced.worst), 6)},
            "failed": [
                {"phase": failing.phase, "errno": failing.errno, "error": failing.words, "count": failing.count}
                for failing in account.failings
            ],
            "lost_in": {str(second + 1): count for second, count in sorted(account.lost_in.items())},
            "cpu": round(account.cpu / account.elapsed, 3) if account.elapsed else 0.0,
            "warnings": account.warnings(run.concurrency),
        }
        return Lines([json.dumps({"summary": summary})])
