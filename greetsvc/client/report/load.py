"""The reports on a load run: text in 80 columns, and JSON Lines. Pure."""

from __future__ import annotations

import json
from typing import Any, Protocol

from attrs import asdict

from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.run import Run
from greetsvc.client.report.base import counts, direction_lines, json_seconds, spread
from greetsvc.client.target import format_address
from greetsvc.client.words import CUT_SHORT, decimal
from greetsvc.console import Lines
from greetsvc.printable import one_line

__all__ = ["JsonLoadReport", "LoadReport", "TextLoadReport", "stretches"]

_MAX_STRETCHES = 8


class LoadReport(Protocol):
    """A report on a load run. Pure: it returns what to write."""

    def begin(self, run: Run) -> Lines:
        """What to write before the run; nothing by default."""
        return Lines()

    def second(self, number: int, second: SecondCounts, in_flight: int) -> Lines:
        """What to write when a second of the run is over."""

    def end(self, run: Run) -> Lines:
        """What to write when the run is over, or was stopped."""


class TextLoadReport:
    """For people: a line a second and a summary."""

    def begin(self, run: Run) -> Lines:
        """What the run will do, and the head of the table."""
        load, subject = run.load_options, one_line(str(run.target))
        pace = f"{run.concurrency} at a time"
        if load.rate is not None:
            pace = f"{decimal(load.rate, 6)} a second, at most {pace},"
        head = "".join(f"{name:>10}" for name in ("second", "sent", "greeted", "lost", "in flight"))
        return Lines([f"{subject}: {pace} for {load.duration:g} s", head])

    def second(self, number: int, second: SecondCounts, in_flight: int) -> Lines:
        """A row of the table."""
        row = (number, second.sent, second.greeted, second.lost, in_flight)
        return Lines(["".join(f"{value:>10}" for value in row)])

    def end(self, run: Run) -> Lines:
        """The summary, the failures and when they happened; warnings go to standard error."""
        metrics = run.metrics
        out = ["", f"{counts(metrics.sent, metrics.greeted, metrics.lost)}, {decimal(metrics.rate, 6)} a second"]
        if metrics.elapsed < run.load_options.duration:
            out.append(f"stopped after {metrics.elapsed:.3f} s with {metrics.unfinished} in flight")
        if metrics.flawed:
            cut_short = any(failure.words.startswith(CUT_SHORT) for failure in metrics.failures)
            out.append(f"{metrics.flawed} slow{', cut short' if cut_short else ''} or not as expected")
        out.extend(_times(metrics))
        out.extend(_connections(metrics))
        if metrics.direction is not None or metrics.unmeasured:
            out.extend(map(one_line, direction_lines(metrics.direction, metrics.unmeasured)))
        out.extend(
            f"{failure.phase}: {one_line(failure.words)} ({failure.name}): {failure.count}"
            for failure in metrics.failures
        )
        if metrics.lost and run.asked:
            out.append(one_line(run.asked))
        if metrics.lost:
            out.append(f"lost by the second in which they started: {_stretches_in_words(metrics)}")
        subject = one_line(str(run.target))
        return Lines(out, [f"greet: {subject}: {warning}" for warning in metrics.warnings(run.concurrency)])


def _times(metrics: LoadMetrics) -> list[str]:
    if not metrics.greeted:
        return []
    times = spread(metrics.corrected)
    rows = [("milliseconds", list(times)), ("time", _ms(times))]
    if metrics.uncorrected is not None:
        rows[1:] = [("from intended start", _ms(times)), ("from actual start", _ms(spread(metrics.uncorrected)))]
    return [f"{label:<20}" + "".join(f"{cell:>8}" for cell in cells) for label, cells in rows]


def _connections(metrics: LoadMetrics) -> list[str]:
    """The connections of a run that talks."""
    found, rate = metrics.connections, metrics.connection_rate
    if found is None or rate is None or not found.seconds.count:
        return []
    times = dict(zip(spread(found.seconds), _ms(spread(found.seconds)), strict=True))
    shown = ", ".join(f"{name} {times[name]}" for name in ("min", "mean", "p99", "max"))
    return [
        f"{found.opened} connections, at most {found.most} at a time: {decimal(rate, 6)} replies a second on each",
        f"connect and greeting: {shown} ms",
    ]


def _ms(times: dict[str, float | None]) -> list[str]:
    """Milliseconds, with at least four digits, and as many as are needed."""
    values = [1000 * (seconds or 0.0) for seconds in times.values()]
    return [f"{value:.3f}" if value < 1000 else f"{value:.0f}" for value in values]


def stretches(lost_in: dict[int, int]) -> list[tuple[int, int, int]]:
    """The stretches of seconds, numbered from 1, in which something was lost: first second, last second, losses."""
    found: list[tuple[int, int, int]] = []
    for second in sorted(lost_in):
        number, count = second + 1, lost_in[second]
        if found and found[-1][1] == second:
            first, _, before = found.pop()
            found.append((first, number, before + count))
        else:
            found.append((number, number, count))
    return found


def _stretches_in_words(metrics: LoadMetrics) -> str:
    found = stretches(metrics.lost_in)
    words = [
        f"{count} in {first}" if first == last else f"{count} in {first} to {last}"
        for first, last, count in found[:_MAX_STRETCHES]
    ]
    rest = sum(count for _, _, count in found[_MAX_STRETCHES:])
    return ", ".join([*words, *([f"{rest} later"] if rest else [])])


class JsonLoadReport(LoadReport):
    """For programs: an object for each second, and the summary object."""

    def second(self, number: int, second: SecondCounts, in_flight: int) -> Lines:
        """The object of one second."""
        return Lines([json.dumps({"second": {"number": number, **asdict(second), "in_flight": in_flight}})])

    def end(self, run: Run) -> Lines:
        """The summary object: it has the keys of a run of probes, and more."""
        metrics, schedule, load = run.metrics, run.metrics.schedule, run.load_options
        late = schedule and {"visits": schedule.late, "worst": round(max(0.0, schedule.worst), 6)}
        summary: dict[str, Any] = {
            "sent": metrics.sent,
            "greeted": metrics.greeted,
            "lost": metrics.lost,
            "rate": round(metrics.rate, 3),
            "seconds": json_seconds(spread(metrics.corrected)),
            "uncorrected": metrics.uncorrected and json_seconds(spread(metrics.uncorrected)),
            "target": str(run.target),
            "address": run.peer and format_address(run.peer),
            "duration": load.duration,
            "concurrency": run.concurrency,
            "asked_rate": load.rate,
            "elapsed": round(metrics.elapsed, 3),
            "unfinished": metrics.unfinished,
            "missed": metrics.missed,
            "flawed": metrics.flawed,
            "late": late,
            "failed": [
                {"phase": failure.phase, "errno": failure.errno, "error": failure.words, "count": failure.count}
                for failure in metrics.failures
            ],
            "lost_in": {str(second + 1): count for second, count in sorted(metrics.lost_in.items())},
            "cpu": round(metrics.cpu / metrics.elapsed, 3) if metrics.elapsed else 0.0,
            "warnings": metrics.warnings(run.concurrency),
        }
        if run.target.datagram:
            summary["answers"] = asdict(metrics.strays)
        if run.target.transport == "udp":
            summary["direction"] = metrics.direction and metrics.direction.as_json()
        if metrics.connections is not None:
            rate, seconds = metrics.connection_rate, json_seconds(spread(metrics.connections.seconds))
            counted = {"opened": metrics.connections.opened, "most": metrics.connections.most}
            summary["connections"] = {**counted, "rate": rate and round(rate, 3), "seconds": seconds}
        return Lines([json.dumps({"summary": summary})])
