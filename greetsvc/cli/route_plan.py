"""The plan for a trace."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError

from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.flows import free_ports
from greetsvc.client.probe.resolve import SocketAddress, resolve
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.report.causes import likely_cause
from greetsvc.client.report.route import JsonTraceReport, TextTraceReport, TraceReport
from greetsvc.client.result import GreetFailed
from greetsvc.client.route.ask import Asker
from greetsvc.client.route.hops import Hop
from greetsvc.client.route.trace import trace_flows
from greetsvc.client.stats import RunStats
from greetsvc.client.target import Target
from greetsvc.console import Output
from greetsvc.printable import one_line

__all__ = ["TracePlan"]


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
        report: TraceReport = (
            JsonTraceReport(self.ports) if self.as_json else TextTraceReport(self.target, self.ports)
        )
        trace = (lambda line: output.complain(one_line(line))) if self.verbose else None
        timeline = Timeline(self.target, self.options, now=now, trace=trace)
        stats.sent = self.flows

        def each(flow: int, hop: Hop) -> None:
            output.write(report.hop(flow, hop))

        try:
            remote = await resolve(timeline, reactor)
            timeline.peer = remote.address
            flows = await trace_flows(
                self._asker(remote, reactor, now), self.ports, each, seconds=timeline.remaining()
            )
        except CancelledError:
            return
        except (GreetFailed, OSError) as error:
            failed = error if isinstance(error, GreetFailed) else system_failed(timeline, error.errno or errno.EIO)
            for words in (str(failed), *likely_cause(failed)):
                output.complain(f"greet: {one_line(str(self.target))}: {one_line(words)}")
            return
        stats.greeted = sum(flow.served for flow in flows)
        output.write(report.end(flows))

    def _asker(self, remote: SocketAddress, reactor: Any, now: Callable[[], float]) -> Asker:
        return Asker(remote, self.options, self.target.datagram, reactor, now)
