"""The reports on a route: its hops, and the largest packets that pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from greetsvc.client.route.hops import Flow, Hop, numbers, partings
from greetsvc.client.route.mtu import Mtu
from greetsvc.client.target import Target
from greetsvc.console import Lines
from greetsvc.printable import one_line

__all__ = ["JsonTraceReport", "TextTraceReport", "TraceReport", "mtu_lines"]


class TraceReport(Protocol):
    """A report on a trace. Pure: it returns what to write."""

    def hop(self, flow: int, hop: Hop) -> Lines:
        """What to write about a hop of a flow (from 0) as soon as it is known."""

    def end(self, flows: Sequence[Flow]) -> Lines:
        """What to write when all flows are done."""


@frozen
class JsonTraceReport:
    """One object for each hop; with several flows each says which one it is of."""

    ports: Sequence[int]

    def hop(self, flow: int, hop: Hop) -> Lines:
        """The object of a hop."""
        found = hop.as_json()
        if len(self.ports) > 1:
            found |= {"flow": flow + 1, "source_port": self.ports[flow]}
        return Lines([json.dumps(found)])

    def end(self, flows: Sequence[Flow]) -> Lines:
        """Nothing more: the objects say it all."""
        return Lines()


@frozen
class TextTraceReport:
    """A line for each hop; of several flows one table, and what differs between them."""

    target: Target
    ports: Sequence[int]

    def hop(self, flow: int, hop: Hop) -> Lines:
        """The line of a hop. Several flows wait for the end, so that they can be compared."""
        return Lines() if len(self.ports) > 1 else Lines([_line(hop)])

    def end(self, flows: Sequence[Flow]) -> Lines:
        """The table of several flows, where they differ, and why a flow did not reach the target."""
        start = f"greet: {one_line(str(self.target))}: "
        if len(flows) == 1:
            return Lines([], [start + line for line in _ends(flows[0])])
        out = ["flow  source port  hops"]
        out += [f"{at:4}  {flow.port:11}  {len(flow.hops):4}" for at, flow in enumerate(flows, 1)]
        err: list[str] = []
        for number in range(1, max(len(flow.hops) for flow in flows) + 1):
            seen: dict[str | None, list[int]] = {}
            for at, flow in enumerate(flows, 1):
                if len(flow.hops) >= number:
                    seen.setdefault(flow.hops[number - 1].address, []).append(at)
            for of in seen.values():
                out.append(f"{_line(flows[of[0] - 1].hops[number - 1])}  flow{'s' * (len(of) > 1)} {numbers(of)}")
        for at, flow in enumerate(flows, 1):
            err += [f"{start}flow {at} (source port {flow.port}): {line}" for line in _ends(flow)]
        return Lines([*out, *partings(flows)], err)


def _line(hop: Hop) -> str:
    reply = hop.reply
    if reply is None:
        return f"{hop.number:2}  *  no answer"
    said = "" if reply.transit else f"  {'the target' if reply.reached else 'packets stop'}"
    return f"{hop.number:2}  {hop.address or 'this host'}  {1000 * reply.seconds:.3f} ms{said}"


def _ends(flow: Flow) -> list[str]:
    """Why a flow did not get an answer of the service, and the likely cause."""
    words, reply = flow.words(), flow.end or flow.beyond
    cause = f"likely: {reply.icmp.cause}" if words and reply is not None and reply.icmp else ""
    return [one_line(line) for line in (words, cause) if line]


def mtu_lines(found: Mtu, *, as_json: bool) -> Lines:
    """What to write about the largest packets that pass."""
    if as_json:
        return Lines([json.dumps(found.as_json())])
    return Lines([one_line(found.there.line("there")), one_line(found.back.line("back"))])
