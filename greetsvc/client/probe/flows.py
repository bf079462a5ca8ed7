"""Flows: probes from several source ports, or from one port that is compared with a fresh one when it fails.

Routers and switches send a flow (its addresses and ports) over one of several links, and firewalls keep state of it;
so one flow may fail while its neighbours work.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from itertools import count as counter
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime

from greetsvc.client.probe.series import repeat, result_of
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import MAX_CHANCE, chance

__all__ = ["PinnedFlow", "all_at_once", "free_ports", "probe_flows"]

T = TypeVar("T")

_FRESH = 5
"""Fresh ports that are probed, at once, for each failure of a pinned flow."""
_REMEMBERED = 500
"""The latest probes that a finding is computed from."""


def free_ports(count: int, *, datagram: bool, least: int = 32768, most: int = 60999, tries: int = 50) -> list[int]:
    """Free ports in a row, which the usual hashes spread best over links; any free ports where no row is free.

    They are looked for between ``least`` and ``most``: the default of net.ipv4.ip_local_port_range.
    """
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
    """A flow with one fixed source port. When it fails, fresh ports tell whether the flow is the cause.

    ``pinned`` probes from the port, ``fresh`` from one that the system chooses. A finding needs losses that chance
    would give less than once in a thousand runs (`MAX_CHANCE`), however often we looked; so one loss never makes one.
    ``diagnosis`` is what is new after the last probe, in words.
    """

    port: int
    pinned: Callable[[], Awaitable[Greeting]]
    fresh: Callable[[], Awaitable[Greeting]]
    probes: int = 0
    failing: int = 0
    """Probes from the port, and the latest of them in a row that failed."""
    results: deque[bool] = field(factory=lambda: deque(maxlen=_REMEMBERED))
    fresh_results: deque[bool] = field(factory=lambda: deque(maxlen=_REMEMBERED))
    """Whether the latest probes were greeted."""
    finding: str = ""
    diagnosis: list[str] = field(factory=list)

    async def probe(self) -> Greeting:
        """Probe from the port; when that fails, probe from fresh ports.

        :raises GreetFailed: that of the pinned probe.
        """
        self.diagnosis = []
        result = await result_of(self.pinned())
        if isinstance(result, GreetFailed):
            if not result.never_sent:
                self.diagnosis = self._compare(await all_at_once([result_of(self.fresh()) for _ in range(_FRESH)]))
            raise result
        self.probes += 1
        self.failing = 0
        self.results.append(True)
        self._find("")
        return result

    def _compare(self, fresh: list[Greeting | GreetFailed]) -> list[str]:
        self.probes += 1
        self.failing += 1
        self.results.append(False)
        sent = [result for result in fresh if isinstance(result, Greeting) or not result.never_sent]
        # A fresh probe repeats a lost request, the pinned one does not: requests are compared, not probes.
        greeted = [answered for result in sent for answered in _requests(result)]
        self.fresh_results.extend(greeted)
        self._find(self._cause())
        if not sent:
            return [f"whether fresh source ports work is not known: {fresh[0]}"]
        if self.finding or self.failing > 1:
            return self.diagnosis
        if not any(greeted):
            return ["fresh source ports fail too: nothing points to this flow"]
        lost = f"{self.results.count(False)} of {len(self.results)} lost"
        others = f"{self.fresh_results.count(False)} of {len(self.fresh_results)} from fresh ones"
        return [f"source port {self.port}: {lost}, {others}: that may be chance"]

    def _find(self, finding: str) -> None:
        """Tell a finding once, and take it back when it does not hold any more."""
        if self.finding and not finding:
            self.diagnosis = [f"source port {self.port} works again: the finding is withdrawn"]
        elif finding and not self.finding:
            self.diagnosis = [finding]
        self.finding = finding

    def _cause(self) -> str:
        """What chance does not explain."""
        level = MAX_CHANCE / self.probes
        greeted = self.results.count(True)
        fresh_lost, fresh_sent = self.fresh_results.count(False), len(self.fresh_results)
        before = len(self.results) - self.failing
        if chance(self.failing, self.failing, fresh_lost + before - greeted, fresh_sent + before) >= level:
            return ""
        start = f"source port {self.port} fails while fresh ones work"
        if greeted:
            return f"{start}; it worked before ({greeted} greeted): likely a stale connection-tracking entry"
        return f"{start}: likely a rule for that port, or a broken member of an ECMP or LAG group"


def _requests(result: Greeting | GreetFailed) -> list[bool]:
    """Whether each request of a probe was answered; a stream has one."""
    if isinstance(result, GreetFailed):
        return [False] * max(1, result.requests_lost)
    return [*[False] * result.requests_lost, True]


async def all_at_once(probes: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once, and give what they return; the first exception stops the others."""
    in_flight = [Deferred.fromCoroutine(probe) for probe in probes]
    try:
        return await gatherResults(in_flight, consumeErrors=True)
    except FirstError as error:
        for unfinished in in_flight:
            unfinished.cancel()
        error.subFailure.raiseException()


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
        await all_at_once([one(next(numbers), probe) for probe in flows])

    async for _ in repeat(all_flows, count=count, interval=interval, clock=clock, now=now):
        pass
