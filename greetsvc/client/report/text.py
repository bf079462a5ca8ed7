"""The report for people, as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from attrs import field, frozen

from greetsvc.client.report.base import (
    PERCENTILES,
    counts,
    direction_lines,
    ending_notes,
    lost_requests,
    spread,
)
from greetsvc.client.report.causes import Earlier, explain, likely_cause
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import MAX_REPLICAS, OTHER_REPLICAS, FlowStats, RunStats
from greetsvc.client.target import Target, format_address
from greetsvc.client.words import decimal, note_line
from greetsvc.console import Lines
from greetsvc.printable import one_line, printable, shortened, without_line_end

__all__ = ["TextReport", "summary_notes"]


_LONGEST_TEXT = 300
"""Characters of a greeting in the line of one of several probes. A single probe prints the whole greeting."""


@frozen
class TextReport:
    """One probe: the greeting itself. Several probes: a line each and a summary.

    When ``traced``, remarks about answers and the path were printed as they came, and are not said again.
    """

    is_for_programs: ClassVar[bool] = False

    target: Target
    several: bool
    traced: bool = False
    said: set[str] = field(factory=set)
    earlier: Earlier = field(factory=Earlier)

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """The greeting on standard output; what is wrong, and what the path did, on standard error."""
        subject = one_line(str(self.target))
        start = f"greet: {number}: {subject}" if self.several else f"greet: {subject}"
        if isinstance(result, GreetFailed):
            out, notes = [], [str(result)]
        else:
            remarks = () if self.traced else result.notes
            out, notes = [self._greeting(number, result)], [*remarks, *ending_notes(result)]
            if result.requests_lost:
                notes.append(lost_requests(result))
        explained = explain(result, self.said, self.earlier)
        causes = likely_cause(result) if self.traced and isinstance(result, Greeting) else explained
        notes += [*flaws, *causes]
        return Lines(out, [f"{start}: {note_line(note)}" for note in notes])

    def _greeting(self, number: int, greeting: Greeting) -> str:
        if not self.several:
            return printable(without_line_end(greeting.said))
        # A path record is for programs: of several probes it is enough to say which server it came from.
        said = greeting.said if greeting.path is None else f"a path record of {greeting.path.instance}"
        if greeting.measured and greeting.path is None:
            said = "measured"
        time = f"{greeting.seconds.total * 1000:.3f} ms"
        if greeting.talk is not None:
            trips = len(greeting.talk.round_trips)
            time = f"{time}, {trips} round trip{'s' * (trips > 1)} {greeting.talk.seconds * 1000:.3f} ms"
        start = f"{number} {self.target.transport} {format_address(greeting.peer)} {time}"
        return f"{start}: {shortened(one_line(said), _LONGEST_TEXT)}"

    def end(self, stats: RunStats) -> Lines:
        """The summary, in the manner of ping."""
        if not self.several:
            return Lines(talk_lines(stats) if stats.greeted else [])
        out = ["", f"{counts(stats.sent, stats.greeted, stats.lost)}, {decimal(stats.rate)} a second"]
        if stats.repeats:
            out.append(stats.repeats)
        if self.target.transport == "udp":
            out += direction_lines(stats.direction, stats.unmeasured)
        if stats.seconds.count:
            times = spread(stats.seconds) | {"jitter": stats.jitter.value}
            out.append(_times(times, ("min", "mean", "max", "jitter")))
            out.append(_times(times, PERCENTILES))
        out += talk_lines(stats)
        return Lines([*out, *map(one_line, summary_notes(stats))])


def talk_lines(stats: RunStats) -> list[str]:
    """How long the round trips took, beside a connection that greets and closes."""
    trips, visits = stats.round_trips, stats.seconds
    lines = [
        f"{name}: {_times(spread(found), ('min', 'mean', 'p99', 'max'))}"
        for name, found in (
            (f"{trips.count} round trip{'s' * (trips.count > 1)} on a connection", trips),
            ("connect, greet and close", visits),
        )
        if found.count
    ]
    return ["", *lines] if trips.count else []


def summary_notes(stats: RunStats) -> list[str]:
    """What a run found out, a line each: repeated SYNs, replicas, flows."""
    lines = []
    retried = [
        f"{took.count} with {syns} SYNs ({took.mean:.3f} s)" for syns, took in sorted(stats.retried_connects.items())
    ]
    if retried:
        lines.append(f"connected late: {', '.join(retried)}: packets are lost or late")
    if stats.handshakes.lost or stats.unexplained:
        lost = stats.handshakes
        counted = f"{lost.syn_lost or 0} SYNs, {lost.synack_lost or 0} SYN-ACKs, {lost.ack_lost or 0} ACKs lost"
        lines.append(f"handshakes: {counted}, {stats.unexplained} not explained")
    if len(stats.replicas) > 1:
        total = stats.replicas.total()
        shares = [
            f"{name} {decimal(100 * count / total)} % ({count})" for name, count in stats.replicas.most_common()
        ]
        number = f"more than {MAX_REPLICAS}" if OTHER_REPLICAS in stats.replicas else len(shares)
        lines.append(f"{number} replicas: {', '.join(shares)}")
    return lines + (_flow_table(stats.flows) if stats.flows else [])


def _flow_table(flows: FlowStats) -> list[str]:
    """A table of the flows, and a line for each broken one."""
    lines = ["flow  source port  sent  lost"]
    for flow, port in enumerate(flows.ports):
        lines.append(f"{flow + 1:4}  {port:11}  {flows.sent[flow]:4}  {flows.lost[flow]:4}")
    for flow, others_lost, others_sent in flows.broken():
        start = f"flow {flow + 1} (source port {flows.ports[flow]}): {flows.lost[flow]} of {flows.sent[flow]} lost"
        others = f"{others_lost} of {others_sent}" if others_lost else "0"
        lines.append(f"{start}, the others {others}: a broken member of an ECMP or LAG group?")
    return lines


def _times(seconds: dict[str, float | None], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {value * 1000:.3f}" for name in names if (value := seconds[name]) is not None) + " ms"
