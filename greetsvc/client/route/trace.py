"""A trace: each hop on the way to the service's own port is asked by a request whose TTL ends there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, evolve
from twisted.internet.task import deferLater

from greetsvc.client.probe.flows import all_at_once
from greetsvc.client.route.ask import Asker
from greetsvc.client.route.hops import MAX_HOPS, Flow, Hop, Reply

__all__ = ["trace_flows"]

_TRIES = 2
"""Requests to a hop that is silent. Routers limit how many ICMP messages they send (Linux: 6, then one a second)."""

_LONGEST, _SHORTEST, _RTTS = 1.0, 0.3, 3.0
"""Seconds to wait for a hop: three times the longest round trip so far, within these bounds."""

_SILENT = 4
"""Silent hops in a row after which the target is asked with a full TTL."""

_LAST_WAIT = 4.6
"""Seconds to wait for that.

A router reports a host that does not answer ARP after 3 s. It may have sent all the ICMP messages that it may for our
earlier requests; then it reports the SYN that the kernel sends again after 1 s.
"""

_APART = 0.05
"""Seconds from the start of one flow to that of the next."""


@define
class _Walk:
    """The walk along one flow. ``each`` is told a hop once it is known that the path goes as far."""

    asker: Asker
    flow: Flow
    each: Callable[[Hop], None]
    deadline: float
    slowest: float = _LONGEST / _RTTS
    least: float = _SHORTEST
    """The longest round trip so far, and the least time to wait for a hop, in seconds."""

    async def run(self) -> None:
        """Walk until the target answers, or nothing does."""
        flow, told, silent = self.flow, 0, 0
        answer: Reply | None = None
        while len(flow.hops) < MAX_HOPS and not flow.end and not flow.looping:
            reply = await self._ask(len(flow.hops) + 1)
            flow.hops.append(Hop(len(flow.hops) + 1, reply))
            silent = 0 if reply else silent + 1
            if reply and reply.own and not told:
                flow.hops = [Hop(0, reply)]
            if reply:
                for hop in flow.hops[told:]:
                    self.each(hop)
                told = len(flow.hops)
            elif self._left() <= 0:
                flow.out_of_time = True
                break
            elif silent == _SILENT and answer is None:
                answer = await self.asker.ask(None, min(_LAST_WAIT, self._left()))
                if answer is None or not answer.reached:
                    flow.beyond = answer
                    break
                # It is there, and further away in time than we waited, or only its routers are silent.
                self.least = max(self.least, 2 * answer.seconds)
                del flow.hops[-silent:]
        for hop in flow.hops[told:]:
            self.each(hop)

    async def _ask(self, ttl: int) -> Reply | None:
        for _ in range(_TRIES):
            patience = max(self.least, min(_LONGEST, _RTTS * self.slowest))
            if (left := self._left()) <= 0:
                break
            if reply := await self.asker.ask(ttl, min(left, patience)):
                first = not any(hop.reply for hop in self.flow.hops)
                self.slowest = reply.seconds if first else max(self.slowest, reply.seconds)
                return reply
        return None

    def _left(self) -> float:
        return self.deadline - self.asker.now()


async def trace_flows(
    asker: Asker, ports: Sequence[int], each: Callable[[int, Hop], None], seconds: float
) -> list[Flow]:
    """Trace the flow of each source port, all at once, for at most ``seconds``.

    ``each`` is told the number of a flow, from 0, and each of its hops in their order.

    :raises OSError: when this host could not send.
    """
    deadline = asker.now() + seconds

    async def walk(at: int, port: int) -> Flow:
        if at:
            await deferLater(asker.reactor, at * _APART)
        flow = Flow(port)
        own = evolve(asker, options=evolve(asker.options, source_port=port))
        await _Walk(own, flow, lambda hop: each(at, hop), deadline).run()
        return flow

    return await all_at_once([walk(at, port) for at, port in enumerate(ports)])
