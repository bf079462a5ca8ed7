"""The report for programs: JSON Lines, with the keys of docs/client.md."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from attrs import asdict, frozen

from greetsvc.client.evidence.handshake import UNKNOWN
from greetsvc.client.report.base import ending_notes, json_seconds, spread
from greetsvc.client.result import Attempt, GreetFailed, Greeting
from greetsvc.client.stats import RunStats
from greetsvc.client.target import Target, format_address
from greetsvc.console import Lines

__all__ = ["JsonReport"]


@frozen
class JsonReport:
    """An object for each probe; after several probes a summary object."""

    is_for_programs: ClassVar[bool] = True

    target: Target
    several: bool

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """The probe object."""
        return Lines([json.dumps(self.probe_object(result, flaws))])

    def probe_object(self, result: Greeting | GreetFailed, flaws: list[str]) -> dict[str, Any]:
        """The probe object. ``error`` also says what is wrong with a greeting that came; ``ok`` is true then."""
        found: dict[str, Any] = {
            "time": None if result.time is None else round(result.time, 6),
            "target": str(self.target),
            "transport": self.target.transport,
            "address": format_address(result.peer) if result.peer else None,
        }
        if isinstance(result, GreetFailed):
            error = _joined(result.strerror or "", result.asked, *flaws)
            found |= {"ok": False, "greeting": None, "error": error, "errno": result.errno, "phase": result.phase}
        else:
            error = _joined(*ending_notes(result), *flaws)
            code, phase = result.ending_errno, None if result.ending_errno is None else "close"
            found |= {"ok": True, "greeting": result.text, "error": error, "errno": code, "phase": phase}
        found |= {"closed": result.closed, "seconds": json_seconds(asdict(result.seconds))}
        if self.target.datagram:
            found["attempts"] = [_attempt(attempt) for attempt in result.attempts]
        if result.talk is not None:
            found["talk"] = asdict(result.talk, value_serializer=_rounded)
        if self.target.transport in ("tcp", "tls"):
            found["direction"] = (UNKNOWN if isinstance(result, GreetFailed) else result.handshake).as_json()
        if isinstance(result, GreetFailed) and result.icmp is not None:
            found["icmp"] = result.icmp.as_json()
        if isinstance(result, Greeting) and result.path is not None:
            found["path"] = result.path.as_json()
        return found

    def end(self, stats: RunStats) -> Lines:
        """The summary object."""
        if not self.several:
            return Lines()
        summary: dict[str, Any] = {
            "sent": stats.sent,
            "greeted": stats.greeted,
            "lost": stats.lost,
            "rate": round(stats.rate, 3),
            "seconds": json_seconds(spread(stats.seconds)),
        }
        if self.target.datagram:
            summary["requests"] = {"sent": stats.requests, "lost": stats.requests_lost}
        if self.target.transport == "udp":
            summary["direction"] = stats.direction and stats.direction.as_json()
        if stats.round_trips.count:
            trips = {"count": stats.round_trips.count, "seconds": json_seconds(spread(stats.round_trips))}
            summary["round_trips"] = trips
        if stats.replicas:
            summary["replicas"] = dict(stats.replicas.most_common())
        if stats.flows is not None:
            flows = zip(stats.flows.ports, stats.flows.sent, stats.flows.lost, strict=True)
            summary["flows"] = [{"source_port": port, "sent": sent, "lost": lost} for port, sent, lost in flows]
            for flow, direction in zip(summary["flows"], stats.flows.directions, strict=False):
                flow["direction"] = direction and direction.as_json()
        if stats.handshakes != UNKNOWN or stats.unexplained:
            summary["direction"] = stats.handshakes.as_json() | {"unexplained": stats.unexplained}
        return Lines([json.dumps({"summary": summary})])


def _attempt(attempt: Attempt) -> dict[str, Any]:
    """A request; with a measured answer also the time without the server's own, and the raw numbers."""
    found: dict[str, Any] = json_seconds({"time": attempt.time, "seconds": attempt.seconds})
    if attempt.exchange is not None:
        found |= json_seconds({"round_trip": attempt.round_trip}) | {"measured": asdict(attempt.exchange)}
    return found


def _rounded(_: object, __: object, value: Any) -> Any:
    """Seconds to the microsecond."""
    return round(value, 6) if isinstance(value, float) else value


def _joined(*words: str) -> str | None:
    return "; ".join(filter(None, words)) or None
