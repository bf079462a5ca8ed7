"""The reports on connections that were silent: text, an object for programs, a line for monitoring. Pure."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Protocol

from attrs import frozen

from greetsvc.client.hold import Held, HoldResult
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.monitoring import perfdata_line
from greetsvc.client.report.text import TextReport
from greetsvc.client.result import GreetFailed
from greetsvc.client.target import Target, format_address
from greetsvc.client.words import decimal
from greetsvc.console import Lines
from greetsvc.printable import one_line

__all__ = ["CAUSES", "HealthHoldReport", "HoldReport", "JsonHoldReport", "NagiosHoldReport", "TextHoldReport"]

_FORGOT = "a NAT, firewall or load balancer on the path had forgotten the connection"

CAUSES = {
    "fin": "a limit of the server on silence (greetsvc: --deadline), or of a proxy; the path itself kept the "
    "connection that long, and whether it keeps it longer is not known",
    "reset": "a firewall or load balancer that tells both ends when it gives up a connection, or the server did",
    "fin when we spoke": "the server or a proxy had closed it and that came late, or closes for our message",
    "reset when we spoke": f"{_FORGOT} and rejects what it does not know, or the server had closed it and that was "
    "lost",
    "no answer": f"{_FORGOT} and drops what it does not know, or the server hangs",
    "no answer, acknowledged": "the server hangs, or a proxy on the path has lost the server behind it: our message "
    "did arrive",
    "no answer, not acknowledged": f"{_FORGOT} and drops what it does not know",
    "active too": "the server was stopped, the path went down, or there is a limit on the whole life of a connection",
}
"""The likely causes, by what happened (docs/verdicts.md)."""


def _kind(held: Held) -> str:
    if held.closed == "timeout":
        known = {None: "", True: ", acknowledged", False: ", not acknowledged"}
        return f"no answer{known[held.acknowledged]}"
    return f"{held.closed} when we spoke" if held.spoken else str(held.closed)


def _event(held: Held, timeout: float) -> str:
    """What came of a silence, in words."""
    if held.part:
        return f"answered, but only a part of the answer came: {held.part}"
    if held.survived:
        return f"answered after {1000 * (held.reply or 0):.3f} ms"
    when = " when we spoke" if held.spoken else ""
    if held.closed != "timeout":
        words = f"{'reset' if held.closed == 'reset' else 'closed by the far end (FIN)'}{when}"
        return f"{words}; it said: {held.said}" if held.said else words
    words = f"no answer within {timeout:g} s"
    if held.acknowledged:
        return f"{words}, though our message was acknowledged"
    if held.acknowledged is None or held.sent_again is None:
        return words
    return f"{words}: our message was sent {held.sent_again + 1} times and never acknowledged"


def _seconds(seconds: float) -> str:
    return f"{decimal(seconds)} s"


def _verdict(result: HoldResult, timeout: float) -> str:
    """What is known, in one line."""
    held = result.held
    if held is None:
        return "stopped: no connection has ended so far; nothing else is known"
    if held.survived:
        words = f"survived {_seconds(held.silence)} of silence: {_event(held, timeout)}"
        return f"stopped: {words}; what is longer is not known" if result.stopped else words
    words = f"did not survive {_seconds(held.silence)} of silence: {_event(held, timeout)}"
    if result.is_ambiguous:
        event = _event(held, timeout)
        words = f"ended after {_seconds(held.silence)}: {event}; whether the silence is the reason is not known"
    elif result.limit is not None and len(result.tried) > 1:
        least, most = result.between or (0, 0)
        span = "" if least == most else f" (more than {_seconds(least)}, at most {_seconds(most)})"
        words = f"the limit is {_seconds(result.limit)} of silence{span}; after that: {_event(held, timeout)}"
    return f"stopped: {words}" if result.stopped else words


def _notes(result: HoldResult) -> list[str]:
    """What the verdict rests on, and the likely cause, a line each."""
    held = result.held
    if held is None:
        return []
    notes = []
    if result.active is not None:
        too = " as well" if result.is_ambiguous else ""
        notes.append(f"a connection that was not silent ended{too} ({result.active})")
    if not held.idle:
        came = "WebSocket pings" if held.pinged else f"{held.packets} packets, such as TCP keepalives,"
        notes.append(f"{came} came during the silence: on the path, the connection was not idle all the time")
    if not held.survived:
        notes.append(f"likely: {CAUSES['active too' if result.is_ambiguous else _kind(held)]}")
    return notes


class HoldReport(Protocol):
    """A report on connections that were silent. Pure: it returns what to write.

    ``is_for_programs`` is as in `greetsvc.client.report.base.Report`.
    """

    is_for_programs: ClassVar[bool] = False

    def each(self, held: Held) -> Lines:
        """What to write when one silence is over; nothing by default."""
        return Lines()

    def end(self, result: HoldResult, refused: list[GreetFailed]) -> Lines:
        """What to write at the end; ``refused`` are connections that failed before their silence."""

    def failed(self, failed: GreetFailed) -> Lines:
        """What to write when no connection came to its silence."""


@frozen
class TextHoldReport(HoldReport):
    """For people: a line for each silence where there are ``several``, and what is known."""

    target: Target
    timeout: float
    several: bool

    def each(self, held: Held) -> Lines:
        """How long the silence was, and what came of it."""
        return Lines(
            [f"{_seconds(held.silence):>10}  {one_line(_event(held, self.timeout))}"] if self.several else []
        )

    def end(self, result: HoldResult, refused: list[GreetFailed]) -> Lines:
        """What is known on standard output; the likely cause on standard error."""
        notes = _notes(result)
        if refused:
            notes.insert(0, f"{len(refused)} more connections failed before their silence ({refused[0]})")
        subject = one_line(str(self.target))
        return Lines(
            [one_line(_verdict(result, self.timeout))], [f"greet: {subject}: {one_line(note)}" for note in notes]
        )

    def failed(self, failed: GreetFailed) -> Lines:
        """As for any probe."""
        return TextReport(self.target, several=False).probe(1, failed, [])


@frozen
class JsonHoldReport(HoldReport):
    """For programs: one object."""

    is_for_programs: ClassVar[bool] = True

    target: Target
    timeout: float

    def end(self, result: HoldResult, refused: list[GreetFailed]) -> Lines:
        """The object."""
        held = result.held
        hold: dict[str, Any] = {
            "seconds": held and round(held.silence, 3),
            "survived": result.survived,
            "closed": held and held.closed,
            "limit": result.limit and round(result.limit, 3),
            "between": result.between and [round(seconds, 3) for seconds in result.between],
            "spoken": held and held.spoken,
            "acknowledged": held and held.acknowledged,
            "sent_again": held and held.sent_again,
            "packets": held and held.packets,
            "said": held and (held.said or None),
            "active": result.active is None,
            "refused": len(refused),
            "tried": [
                {"seconds": round(each.silence, 3), "survived": each.survived, "closed": each.closed}
                for each in result.tried
            ],
        }
        error = None if held is None or held.survived else _verdict(result, self.timeout)
        found = {
            "target": str(self.target),
            "transport": self.target.transport,
            "address": format_address(result.peer),
            "ok": True,
            "error": error,
        }
        return Lines([json.dumps({**found, "hold": hold})])

    def failed(self, failed: GreetFailed) -> Lines:
        """The object of a probe, and a ``hold`` of which nothing is known."""
        hold = dict.fromkeys(("seconds", "survived", "closed", "limit"))
        return Lines([json.dumps({**JsonReport(self.target, several=False).probe_object(failed, []), "hold": hold})])


@frozen
class NagiosHoldReport(HoldReport):
    """One line with perfdata: how long the decisive connection was silent, and the limit."""

    is_for_programs: ClassVar[bool] = True

    target: Target
    timeout: float

    def end(self, result: HoldResult, refused: list[GreetFailed]) -> Lines:
        """OK: the silence was survived; WARNING: it was not, or that is not known."""
        held = result.held
        said = ": ".join([str(self.target), _verdict(result, self.timeout), *_notes(result)])
        silence = "U" if held is None else f"{held.silence:.3f}s"
        limit = "U" if result.limit is None else f"{result.limit:.3f}s"
        perfdata = f"silence={silence};;;0.000;{result.asked:.3f} limit={limit};;;0.000"
        return perfdata_line(0 if held is not None and held.survived else 1, said, perfdata)

    def failed(self, failed: GreetFailed) -> Lines:
        """CRITICAL: there was no connection to be silent on."""
        return perfdata_line(2, f"{self.target}: {failed}", "silence=U;;;0.000 limit=U;;;0.000")


@frozen
class HealthHoldReport(HoldReport):
    """Nothing, except what makes the exit status other than 0, on standard error."""

    target: Target
    timeout: float

    def end(self, result: HoldResult, refused: list[GreetFailed]) -> Lines:
        """What is known, unless the silence was survived."""
        bad = result.held is None or not result.held.survived
        return self._complain(_verdict(result, self.timeout)) if bad else Lines()

    def failed(self, failed: GreetFailed) -> Lines:
        """The failure."""
        return self._complain(str(failed))

    def _complain(self, words: str) -> Lines:
        return Lines(err=[f"greet: {one_line(str(self.target))}: {one_line(words)}"])
