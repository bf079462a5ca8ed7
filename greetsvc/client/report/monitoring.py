"""The reports for monitoring systems and health checks."""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from greetsvc.client.report.base import Report
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import RunStats
from greetsvc.client.target import Target
from greetsvc.client.words import decimal, health_line
from greetsvc.console import Lines
from greetsvc.printable import one_line

__all__ = ["HealthReport", "NagiosReport", "perfdata_line"]


_LONGEST = 360
"""Bytes of text before the perfdata. NRPE cuts a line at 1,024 bytes, and where the locale is ASCII some characters
become longer; the perfdata must arrive all the same.
"""


def perfdata_line(status: int, words: str, perfdata: str) -> Lines:
    """The line for an exit status: words, which are cut where they are long, and figures."""
    said = one_line(words).replace("|", "\\x7c").encode()[:_LONGEST].decode(errors="ignore")
    return Lines([f"GREET {('OK', 'WARNING', 'CRITICAL')[status]} - {said} | {perfdata}"])


@frozen
class NagiosReport:
    """One line with perfdata (Monitoring Plugins guidelines); of several probes, the mean time."""

    is_for_programs: ClassVar[bool] = True

    target: Target
    timeout: float
    warn: float | None
    latest: list[str] = field(factory=list, init=False)

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """Nothing yet; the words of the latest probe are kept for the line."""
        if isinstance(result, GreetFailed):
            self.latest[:] = [str(result), *flaws]
        elif flaws or not result.measured:
            self.latest[:] = flaws or [result.said]
        return Lines()

    def end(self, stats: RunStats) -> Lines:
        """The line."""
        mean = stats.seconds.mean
        took = "U" if mean is None else f"{mean:.6f}s"
        warn = "" if self.warn is None else f"{self.warn:.6f}"
        loss = 100 * stats.lost / stats.sent if stats.sent else 100.0
        perfdata = f"time={took};{warn};;0.000000;{self.timeout:.6f} loss={decimal(loss)}%;;;0;100"
        if (trip := stats.round_trips.mean) is not None:
            perfdata = f"{perfdata} round_trip={trip:.6f}s;;;0.000000"
        count = f"{stats.greeted} of {stats.sent} greeted by {self.target}"
        if stats.repeats:
            count = f"{count}, {stats.repeats}"
        if stats.requests and stats.sent > 1:
            perfdata += _share("request_loss", stats.requests_lost, stats.requests)
        if stats.direction is not None:
            there, back = stats.direction.there, stats.direction.back
            if there.lost or back.lost:
                count = f"{count}, {there.lost} lost there, {back.lost} answers lost back"
            perfdata += _share("loss_there", there.lost, there.sent) + _share("loss_back", back.lost, back.sent)
        return perfdata_line(stats.status, ": ".join([count, *self.latest]), perfdata)


def _share(name: str, lost: int, sent: int) -> str:
    return f" {name}={decimal(100 * lost / sent if sent else 0)}%;;;0;100"


@frozen
class HealthReport(Report):
    """Nothing, except what makes the exit status other than 0, on standard error."""

    target: Target

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """The failure, or the flaws."""
        notes = [str(result)] if isinstance(result, GreetFailed) else flaws
        return Lines(err=[health_line(self.target, note) for note in notes])
