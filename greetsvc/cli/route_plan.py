"""The plans for what is asked about the route: a trace, and the largest packets that pass."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError

from greetsvc.cli.plan import failure
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.datagram.requests import answering
from greetsvc.client.probe.flows import free_ports
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.resolve import resolve
from greetsvc.client.probe.series import result_of
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.report.route import JsonTraceReport, TextTraceReport, TraceReport, mtu_lines
from greetsvc.client.result import GreetFailed
from greetsvc.client.route.ask import Asker
from greetsvc.client.route.discovery import find_mtu
from greetsvc.client.route.hops import Hop
from greetsvc.client.route.kernel_mtu import kernel_mtu
from greetsvc.client.route.trace import trace_flows
from greetsvc.client.stats import RunStats
from greetsvc.client.target import Target
from greetsvc.console import Output
from greetsvc.printable import one_line

__all__ = ["MtuPlan", "TracePlan"]

_Work = Callable[[Timeline], Awaitable[None]]


async def _within(plan: TracePlan | MtuPlan, output: Output, now: Callable[[], float], work: _Work) -> None:
    """Do the ``work`` of a plan with a timeline, and tell a failure as a probe does."""
    trace = (lambda line: output.complain(one_line(line))) if plan.verbose else None
    timeline = Timeline(plan.target, plan.options, now=now, trace=trace)
    try:
        await work(timeline)
    except CancelledError:
        return
    except (GreetFailed, OSError) as error:
        # EAGAIN: no source port is free. Nothing else that these sockets ask for can be lacking for a while.
        number = errno.EADDRNOTAVAIL if error.errno == errno.EAGAIN else error.errno or errno.EIO
        failed = error if isinstance(error, GreetFailed) else system_failed(timeline, number)
        output.write(failure(plan.target, failed, as_json=plan.as_json))


@frozen
class TracePlan:
    """A trace of one flow, or of several: one for each source port."""

    target: Target
    options: ProbeOptions
    flows: int = 1
    as_json: bool = False
    verbose: bool = False
    ports: Sequence[int] = field(init=False)

    @ports.default
    def _choose(self) -> Sequence[int]:
        first = self.options.source_port
        return range(first, first + self.flows) if first else free_ports(self.flows, datagram=self.target.datagram)

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Trace and report, until done or cancelled; each flow counts as a probe."""
        report: TraceReport = JsonTraceReport(self.ports)
        if not self.as_json:
            report = TextTraceReport(self.target, self.ports)
        stats.sent = self.flows

        def each(flow: int, hop: Hop) -> None:
            output.write(report.hop(flow, hop))

        async def trace(timeline: Timeline) -> None:
            remote = await _resolve(timeline, reactor)
            timeline.peer = remote.address
            timeline.enter("greet" if self.target.datagram else "connect")
            asker = Asker(remote, self.options, self.target.datagram, reactor, now)
            flows = await trace_flows(asker, self.ports, each, timeline.remaining())
            stats.greeted = sum(flow.served for flow in flows)
            output.write(report.end(flows))

        await _within(self, output, now, trace)


async def _resolve(timeline: Timeline, reactor: Any) -> SocketAddress:
    """The address that is asked, and that answers."""
    remote = await resolve(timeline, reactor)
    return SocketAddress(remote.family, answering(remote))


@frozen
class MtuPlan:
    """The largest packets that pass to a UDP service and back; of a TCP service what the kernels tell."""

    target: Target
    options: ProbeOptions
    as_json: bool = False
    verbose: bool = False

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Find and report them. A black hole is a flaw, as the exit status says."""
        stats.sent = 1

        async def find(timeline: Timeline) -> None:
            if self.target.datagram:
                found = await find_mtu(await _resolve(timeline, reactor), timeline, reactor)
            else:
                result = await result_of(Probe(self.target, self.options).run(reactor=reactor))
                if isinstance(result, GreetFailed) and result.phase not in ("greet", "tls"):
                    raise result
                found = kernel_mtu(result)
            stats.greeted, stats.flawed = 1, int(bool(found.black_hole))
            output.write(mtu_lines(found, as_json=self.as_json))

        await _within(self, output, now, find)
