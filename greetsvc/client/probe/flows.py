"""Flows: probes from several source ports, or from one port that is compared with a fresh one when it fails.

Routers and switches send a flow (its addresses and ports) over one of several links, and firewalls keep state of it;
so one flow may fail while its neighbours work.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from itertools import count as counter

from attrs import define, field
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime

from greetsvc.client.probe.series import repeat, result_of
from greetsvc.client.result import GreetFailed, Greeting

__all__ = ["PinnedFlow", "free_ports", "probe_flows"]


def free_ports(count: int, *, datagram: bool, least: int = 32768, most: int = 60999, tries: int = 50) -> list[int]:
    """Free ports in a row, which the usual hashes spread best over links; any free ports where no row is free."""
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    for _ in range(tries):
        first = random.randint(least, most - count)  # noqa: S311 - no secret
        row = range(first, first + count)
        try:
            return _bind(kind, row)
        except OSError:
            continue
    return _bind(kind, [0] * count)


def _bind(kind: int, ports: Sequence[int]) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket(socket.AF_INET, kind)) for _ in ports]
        for sock, port in zip(sockets, ports, strict=True):
            sock.bind(("0.0.0.0", port))
        return [sock.getsockname()[1] for sock in sockets]


@define
class PinnedFlow:
    """A flow with one fixed source port. When it fails, a fresh port tells whether the flow is the cause.

    ``pinned`` probes from the port, ``fresh`` from one that the system chooses. ``diagnosis`` is what the comparison
    after the last probe showed, in words; it is empty when there was none.
    """

    port: int
    pinned: Callable[[], Awaitable[Greeting]]
    fresh: Callable[[], Awaitable[Greeting]]
    greeted: int = 0
    diagnosis: list[str] = field(factory=list)

    async def probe(self) -> Greeting:
        """Probe from the port; when that fails, probe from a fresh port.

        :raises GreetFailed: that of the pinned probe.
        """
        self.diagnosis = []
        try:
            greeting = await self.pinned()
        except GreetFailed as failed:
            if not failed.never_sent:
                self.diagnosis = [self._compare(await result_of(self.fresh()))]
            raise
        self.greeted += 1
        return greeting

    def _compare(self, fresh: Greeting | GreetFailed) -> str:
        if isinstance(fresh, GreetFailed):
            return "a fresh source port fails too, so this flow is not the cause"
        start = f"source port {self.port} fails while a fresh one works"
        if self.greeted:
            return f"{start}; it worked before ({self.greeted} greeted): likely a stale connection-tracking entry"
        return f"{start}: likely a rule for that port, or a broken member of an ECMP or LAG group"


async def probe_flows(
    flows: Sequence[Callable[[], Awaitable[Greeting]]],
    each: Callable[[int, Greeting | GreetFailed], None],
    *,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> None:
    """Probe all flows at once, ``count`` times (0: until cancelled), ``interval`` seconds from start to start.

    ``each`` gets the number of a probe, from 1, and its result; the probes of a round have the order of ``flows``.
    """
    numbers = counter(1)

    async def one(number: int, probe: Callable[[], Awaitable[Greeting]]) -> None:
        each(number, await result_of(probe()))

    async def all_flows() -> None:
        in_flight = [Deferred.fromCoroutine(one(next(numbers), probe)) for probe in flows]
        try:
            await gatherResults(in_flight, consumeErrors=True)
        except FirstError as error:
            for unfinished in in_flight:
                unfinished.cancel()
            error.subFailure.raiseException()

    async for _ in repeat(all_flows, count=count, interval=interval, clock=clock, now=now):
        pass
