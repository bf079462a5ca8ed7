"""How outcomes are told: to a person, to a program (JSON Lines), to a monitoring system, or not at all. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from attrs import field, frozen

from greetsvc.client.histogram import Histogram
from greetsvc.client.path import place
from greetsvc.client.report.findings import Findings, summary
from greetsvc.client.result import ENDINGS, GreetFailed, Greeting
from greetsvc.client.stats import Tally
from greetsvc.client.target import Target
from greetsvc.console import Lines
from greetsvc.printable import one_line, printable, without_line_end

__all__ = ["JsonLines", "Nagios", "Plain", "Quiet", "Report", "in_seconds", "spread"]

_PERCENTS: dict[str, float] = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9}


class Report(Protocol):
    """A way of telling what came of the probes."""

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """What to write about one probe."""

    def end(self, tally: Tally) -> Lines:
        """What to write when the run is over, or was stopped."""


@frozen
class Plain:
    """For people: the greeting itself; of several, a line each and a summary."""

    target: Target
    several: bool
    findings: Findings = field(factory=Findings)

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """The greeting on standard output, what is wrong, and what the path did, on standard error."""
        subject = one_line(str(self.target))
        start = f"greet: {number}: {subject}" if self.several else f"greet: {subject}"
        if isinstance(outcome, GreetFailed):
            said = [str(outcome), *complaints, *self.findings.of(outcome)]
            return Lines(err=[f"{start}: {one_line(words)}" for words in said])
        remarks = [*outcome.notes, *_ending(outcome), *complaints, *self.findings.of(outcome)]
        if self.several:
            time = f"{outcome.seconds.total * 1000:.3f} ms"
            out = f"{number} {self.target.transport} {place(outcome.peer)} {time}: {_gist(outcome)}"
        else:
            out = printable(without_line_end(outcome.text))
        return Lines([out], [f"{start}: {one_line(remark)}" for remark in remarks])

    def end(self, tally: Tally) -> Lines:
        """The summary, as ping gives it."""
        if not self.several:
            return Lines()
        percent = 100 * tally.lost / tally.sent if tally.sent else 0.0
        lost = f"{tally.lost} lost ({percent:.3g} %)"
        out = ["", f"{tally.sent} sent, {tally.greeted} greeted, {lost}, {tally.rate:.3g} a second"]
        if tally.greeted:
            times = spread(tally.seconds) | {"jitter": tally.jitter.value}
            out.append(_times(times, ("min", "mean", "max", "jitter")))
            out.append(_times(times, tuple(_PERCENTS)))
        return Lines([*out, *map(one_line, summary(tally))])


@frozen
class JsonLines:
    """For programs: an object for each probe; of several, a summary object at the end."""

    target: Target
    several: bool

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """The probe object. ``error`` also says what is wrong with a greeting that came; ``ok`` is true then."""
        told: dict[str, Any] = {
            "target": str(self.target),
            "transport": self.target.transport,
            "address": place(outcome.peer) if outcome.peer else None,
        }
        if isinstance(outcome, GreetFailed):
            told |= {
                "ok": False,
                "greeting": None,
                "error": _all(outcome.strerror, *complaints),
                "errno": outcome.errno,
            }
            told |= {"phase": outcome.phase}
        else:
            ending = _ending(outcome)
            told |= {"ok": True, "greeting": outcome.text, "error": _all(*ending, *complaints)}
            number_of_ending = ENDINGS[outcome.closed][0] if outcome.closed in ENDINGS else None
            told |= {"errno": number_of_ending, "phase": "close" if ending else None}
        told["closed"] = outcome.closed
        took = outcome.seconds
        told["seconds"] = in_seconds(
            {
                "resolve": took.resolve,
                "connect": took.connect,
                "tls": took.tls,
                "first_byte": took.first_byte,
                "total": took.total,
            }
        )
        if isinstance(outcome, Greeting) and outcome.path is not None:
            told["path"] = outcome.path.as_json()
        return Lines([json.dumps(told)])

    def end(self, tally: Tally) -> Lines:
        """The summary object."""
        if not self.several:
            return Lines()
        told: dict[str, Any] = {
            "sent": tally.sent,
            "greeted": tally.greeted,
            "lost": tally.lost,
            "rate": round(tally.rate, 3),
            "seconds": in_seconds(spread(tally.seconds)),
        }
        if tally.replicas:
            told["replicas"] = dict(tally.replicas.most_common())
        if tally.flows is not None:
            told["flows"] = tally.flows.as_json()
        return Lines([json.dumps({"summary": told})])


@frozen
class Nagios:
    """For monitoring: one line with perfdata (Monitoring Plugins guidelines); of several, the mean time."""

    target: Target
    timeout: float
    warn: float | None
    remarks: list[str] = field(factory=list, init=False)

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """Nothing yet; the latest words are kept for the line."""
        if isinstance(outcome, GreetFailed):
            self.remarks[:] = [str(outcome), *complaints]
        else:
            self.remarks[:] = complaints or [outcome.text]
        return Lines()

    def end(self, tally: Tally) -> Lines:
        """The line."""
        word = ("OK", "WARNING", "CRITICAL")[tally.status]
        mean = tally.seconds.mean
        took = "U" if mean is None else f"{mean:.6f}s"
        warn = "" if self.warn is None else f"{self.warn:.6f}"
        percent = 100 * tally.lost / tally.sent if tally.sent else 100.0
        perfdata = f"time={took};{warn};;0.000000;{self.timeout:.6f} loss={percent:.3g}%;;;0;100"
        count = f"{tally.greeted} of {tally.sent} greeted by {self.target}"
        said = one_line(": ".join([count, *self.remarks])).replace("|", "\\x7c")
        return Lines([f"GREET {word} - {said} | {perfdata}"])


@frozen
class Quiet:
    """For health checks: nothing, unless something is wrong; that on standard error."""

    plain: Plain

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """Only what makes the exit status other than 0."""
        if isinstance(outcome, GreetFailed):
            return Lines(err=self.plain.probe(number, outcome, complaints).err[:1])
        subject = one_line(str(self.plain.target))
        return Lines(err=[f"greet: {subject}: {one_line(complaint)}" for complaint in complaints])

    def end(self, tally: Tally) -> Lines:
        """Nothing: the exit status says it."""
        return Lines()


def _ending(greeting: Greeting) -> list[str]:
    """What is to be said of how the connection ended."""
    return [ENDINGS[greeting.closed][1]] if greeting.closed in ENDINGS else []


def _gist(greeting: Greeting) -> str:
    """The greeting in a line of many; of a path record, which is for programs, whose it is."""
    return (
        one_line(greeting.text) if greeting.path is None else one_line(f"a path record of {greeting.path.instance}")
    )


def _all(*words: str | None) -> str | None:
    return "; ".join(filter(None, words)) or None


def _times(seconds: dict[str, float | None], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {value * 1000:.3f}" for name in names if (value := seconds[name]) is not None) + " ms"


def spread(seconds: Histogram) -> dict[str, float | None]:
    """Least, mean, percentiles and greatest, by name; None where there is nothing."""
    return {
        "min": seconds.least if seconds.count else None,
        "mean": seconds.mean,
        **{name: seconds.percentile(percent) for name, percent in _PERCENTS.items()},
        "max": seconds.greatest if seconds.count else None,
    }


def in_seconds(values: dict[str, float | None]) -> dict[str, float | None]:
    """The same as JSON has them: to the microsecond."""
    return {name: None if value is None else round(value, 6) for name, value in values.items()}
