"""Flows: the same question from several source ports, or from one that is held against fresh ones.

Routers and switches send a flow (its addresses and ports) over one of several links, and firewalls remember it; so
one flow may fail while its neighbours pass.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from math import comb
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from greetsvc.client.result import GreetFailed, Greeting

__all__ = ["MOST_FLOWS", "ROUNDS", "Flows", "Pinned", "free_ports", "in_rounds"]

MOST_FLOWS = 256

ROUNDS = 5
"""How often each flow is asked when nobody says: enough to tell a broken one from bad luck."""

_CHANCE = 0.001
"""A flow is named when its losses would come of the others' rate of loss less often than this, in any flow."""

_OURS = frozenset([errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM])


@define
class Flows:
    """Losses by flow."""

    ports: tuple[int, ...]
    sent: list[int] = field(init=False)
    lost: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sent = [0] * len(self.ports)
        self.lost = [0] * len(self.ports)

    def add(self, flow: int, outcome: Greeting | GreetFailed) -> None:
        """Count one probe of a flow, if it left; flows are numbered from 0 here, and from 1 in words."""
        failed = isinstance(outcome, GreetFailed)
        if not (isinstance(outcome, GreetFailed) and _never_left(outcome)):
            self.sent[flow] += 1
            self.lost[flow] += failed

    def broken(self) -> list[tuple[int, int, int]]:
        """Flows that lose more than chance allows: number, and what the sounder ones have lost and sent."""
        found = []
        for flow, (sent, lost) in enumerate(zip(self.sent, self.lost, strict=True)):
            if not lost:
                continue
            others = [at for at, total in enumerate(self.sent) if total and self.lost[at] / total < lost / sent / 2]
            others_lost, others_sent = sum(self.lost[at] for at in others), sum(self.sent[at] for at in others)
            rate = (others_lost + 0.5) / (others_sent + 1)
            if others and _at_least(lost, sent, rate) < _CHANCE / len(self.ports):
                found.append((flow, others_lost, others_sent))
        return found

    def words(self) -> list[str]:
        """A table of the flows, and a line for each that stands out."""
        lines = ["flow  source port  sent  lost"]
        for flow, port in enumerate(self.ports):
            lines.append(f"{flow + 1:4}  {port:11}  {self.sent[flow]:4}  {self.lost[flow]:4}")
        for flow, others_lost, others_sent in self.broken():
            start = f"flow {flow + 1} (source port {self.ports[flow]}): {self.lost[flow]} of {self.sent[flow]} lost"
            others = f"{others_lost} of {others_sent}" if others_lost else "0"
            lines.append(f"{start}, the others {others}: a broken member of an ECMP or LAG group?")
        return lines

    def as_json(self) -> list[dict[str, int]]:
        """The same for a program."""
        found = zip(self.ports, self.sent, self.lost, strict=True)
        return [{"source_port": port, "sent": sent, "lost": lost} for port, sent, lost in found]


def _never_left(failed: GreetFailed) -> bool:
    """Whether the failure is this host's own, and tells nothing of the path."""
    return failed.phase == "resolve" or failed.errno in _OURS


def _at_least(lost: int, sent: int, rate: float) -> float:
    """The chance of so many losses or more (binomial)."""
    return sum(comb(sent, k) * rate**k * (1 - rate) ** (sent - k) for k in range(lost, sent + 1))


def free_ports(count: int, *, datagram: bool, least: int = 32768, most: int = 60999, tries: int = 50) -> list[int]:
    """Free ports in a row, which the usual hashes spread best; any free ones where there is no such row."""
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    for _ in range(tries):
        first = random.randint(least, most - count)  # noqa: S311 - no secret
        row = range(first, first + count)
        try:
            return _bind(kind, row)
        except OSError:
            continue
    return _bind(kind, [0] * count)


def _bind(kind: int, ports: Any) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket(socket.AF_INET, kind)) for _ in ports]
        for sock, port in zip(sockets, ports, strict=True):
            sock.bind(("0.0.0.0", port))
        return [sock.getsockname()[1] for sock in sockets]


@define
class Pinned:
    """One source port, held against fresh ones whenever it fails."""

    port: int
    passed: int = 0
    finding: str = ""

    async def probe(
        self, pinned: Callable[[], Awaitable[Greeting]], fresh: Callable[[], Awaitable[Greeting]]
    ) -> Greeting:
        """Ask from the port; when that fails, ask from a fresh one, and keep in ``finding`` what that tells.

        :raises GreetFailed: that of the pinned probe.
        """
        self.finding = ""
        try:
            greeting = await pinned()
        except GreetFailed as failed:
            if not _never_left(failed):
                self.finding = await self._compare(fresh)
            raise
        self.passed += 1
        return greeting

    async def _compare(self, fresh: Callable[[], Awaitable[Greeting]]) -> str:
        try:
            await fresh()
        except GreetFailed:
            return "a fresh source port fails too: it is not this flow"
        start = f"source port {self.port} fails while a fresh one passes"
        if self.passed:
            return (
                f"{start}, and it worked until then ({self.passed} greeted): likely a stale connection-tracking entry"
            )
        return f"{start}: likely a rule for that port, or a broken member of an ECMP or LAG group"


async def in_rounds(
    ask: Callable[[int], Awaitable[Greeting]],
    each: Callable[[int, Greeting | GreetFailed], None],
    *,
    flows: int,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> None:
    """Ask over all flows at once, ``count`` times (0: until cancelled), ``interval`` seconds from start to start.

    ``ask`` gets the number of a flow from 0; ``each`` the number of a probe, from 1, and its outcome.
    """

    async def one(number: int, flow: int) -> None:
        try:
            outcome: Greeting | GreetFailed = await ask(flow)
        except GreetFailed as failed:
            outcome = failed
        each(number, outcome)

    done = 0
    start = now()
    while True:
        under_way = [Deferred.fromCoroutine(one(done * flows + flow + 1, flow)) for flow in range(flows)]
        try:
            await gatherResults(under_way, consumeErrors=True)
        except FirstError as error:
            for probe in under_way:
                probe.cancel()
            error.subFailure.raiseException()
        done += 1
        if done == count:
            return
        start = max(start + interval, now())
        await deferLater(clock, max(0.0, start - now()))
