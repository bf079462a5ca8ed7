"""The hops of a route, and what they say about it: where packets stop, where flows part. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from greetsvc.client.evidence.icmp import Icmp

__all__ = ["MAX_HOPS", "ROUNDS", "Flow", "Hop", "Reply", "is_transit", "partings"]

ROUNDS = 3
"""How often a router answers for a hop until it is a loop."""

MAX_HOPS = 30
"""Hops that a trace asks for; the longest paths of the Internet have about as many."""


def is_transit(icmp: Icmp) -> bool:
    """Whether a message only says that the TTL has run out on the way (RFC 792, RFC 4443 3.3)."""
    return (icmp.version, icmp.type, icmp.code) in {(4, 11, 0), (6, 3, 0)}


@frozen
class Reply:
    """What came back for one request: from which address, and after how many seconds.

    ``icmp`` is None when the service's own host answered in its own protocol: then ``error`` is empty, or says how it
    refused.
    """

    address: str | None
    seconds: float
    icmp: Icmp | None = None
    error: str = ""

    @property
    def transit(self) -> bool:
        """Whether a router answered for a hop, and the path goes on."""
        return self.icmp is not None and is_transit(self.icmp)

    @property
    def reached(self) -> bool:
        """Whether the target itself answered."""
        return self.icmp is None or (self.icmp.sender == "target" and not self.transit)

    @property
    def own(self) -> bool:
        """Whether this host itself says that nothing leaves it."""
        return self.icmp is not None and self.icmp.sender == "this host"

    @property
    def served(self) -> bool:
        """Whether the target answered, and did not refuse."""
        return self.icmp is None and not self.error

    @property
    def words(self) -> str:
        """What the reply says besides its address; empty for a router on the way."""
        if self.transit:
            return ""
        return self.icmp.words if self.icmp else self.error


@frozen
class Hop:
    """One hop: its number from 1, and who answered there; ``reply`` is None where nobody did.

    Number 0 is this host itself, where it reports that nothing leaves it.
    """

    number: int
    reply: Reply | None = None

    @property
    def address(self) -> str | None:
        """The address that answered."""
        return None if self.reply is None else self.reply.address

    @property
    def reached(self) -> bool:
        """Whether the target answered here."""
        return self.reply is not None and self.reply.reached

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --trace --json` gives; ``icmp`` only where a message ended the path here."""
        reply = self.reply
        found: dict[str, Any] = {
            "hop": self.number,
            "address": self.address,
            "seconds": None if reply is None else round(reply.seconds, 6),
            "reached": self.reached,
        }
        if reply is not None and reply.icmp is not None and not reply.transit:
            found["icmp"] = reply.icmp.as_json()
        if reply is not None and reply.error:
            found["error"] = reply.error
        return found


@define
class Flow:
    """The hops of one flow, which is one source port, in their order.

    ``beyond`` is the ICMP message that came for a request with a full TTL, where no hop is its sender.
    """

    port: int
    hops: list[Hop] = field(factory=list)
    beyond: Reply | None = None
    out_of_time: bool = False

    @property
    def end(self) -> Reply | None:
        """The reply that ended the path; None where nothing did."""
        reply = self.hops[-1].reply if self.hops else None
        return reply if reply is not None and not reply.transit else None

    @property
    def served(self) -> bool:
        """Whether the target answered, and did not refuse."""
        return self.end is not None and self.end.served

    def words(self) -> str:
        """How the path ends, where it is not the target that answers; empty otherwise."""
        if self.end is not None:
            if self.end.served:
                return ""
            number = self.hops[-1].number
            where = "the target answers" if self.end.reached else "packets stop"
            return f"{where} at {f'hop {number}' if number else 'this host'}: {self.end.words}"
        if self.looping:
            return f"packets go round in a loop, by {', '.join(self.looping)}"
        last = next((hop for hop in reversed(self.hops) if hop.reply is not None), None)
        after = f"hop {last.number}, {last.address}, is the last that answers" if last else "no hop answers"
        if self.out_of_time:
            start = "the time-out (-t) ended the trace"
        elif self.beyond is not None:
            start = f"packets stop beyond: {self.beyond.icmp.words}" if self.beyond.icmp else "packets stop beyond"
        elif len(self.hops) == MAX_HOPS:
            start = f"the target is more than {MAX_HOPS} hops away"
        else:
            start = f"nothing answers from hop {last.number + 1 if last else 1} on, and neither does the target"
        return f"{start}; {after}"

    @property
    def looping(self) -> list[str]:
        """The routers that packets come to again and again, in their order; empty where there is no loop.

        One that comes twice may be a router with two roles; `ROUNDS` times is a loop.
        """
        seen: list[str] = []
        for hop in self.hops:
            if hop.address is not None and hop.address not in seen[-1:]:
                seen.append(hop.address)
                if seen.count(hop.address) == ROUNDS:
                    first = seen.index(hop.address)
                    return seen[first : seen.index(hop.address, first + 1)]
        return []


def partings(flows: Sequence[Flow]) -> list[str]:
    """Where the paths of several flows differ: a line for each hop at which not all see the same address."""
    lines = []
    for number in range(1, max(len(flow.hops) for flow in flows) + 1):
        seen: dict[str, list[int]] = {}
        for at, flow in enumerate(flows, 1):
            if len(flow.hops) >= number and (address := flow.hops[number - 1].address):
                seen.setdefault(address, []).append(at)
        if len(seen) > 1:
            parts = [f"{address} (flow{'s' * (len(of) > 1)} {numbers(of)})" for address, of in seen.items()]
            lines.append(f"the paths differ at hop {number}: {', '.join(parts)}")
    return lines


def numbers(found: Sequence[int]) -> str:
    """Numbers in rising order, as a person writes them: ``1-4, 7``."""
    parts: list[list[int]] = []
    for number in found:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)
