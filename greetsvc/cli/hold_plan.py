"""The plan for connections that are silent for a while."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError

from greetsvc.client.hold import Search
from greetsvc.client.probe.hold import Holding
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.hold import HoldReport
from greetsvc.client.result import GreetFailed
from greetsvc.client.stats import RunStats
from greetsvc.client.words import STOPPED
from greetsvc.console import Output
from greetsvc.printable import one_line

__all__ = ["HoldPlan"]


@frozen
class HoldPlan:
    """Hold connections of ``probe`` as ``search`` has it."""

    probe: Probe
    search: Search
    report: HoldReport
    verbose: bool = False

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Hold and report, until done or cancelled. A silence that is not survived is a flaw."""
        trace = (lambda line: output.complain(one_line(line))) if self.verbose else None
        holding = Holding(self.probe, self.search, reactor, lambda held: output.write(self.report.each(held)), trace)
        stats.sent, stopped = 1, False
        try:
            await holding.run()
        except CancelledError:
            stopped = True
        except GreetFailed as failed:
            output.write(self.report.failed(failed))
            return
        result = holding.result(stopped=stopped)
        if result is None:
            if self.report.is_for_programs:
                output.write(self.report.failed(GreetFailed(errno.ECANCELED, STOPPED)))
            return
        stats.greeted = 1
        stats.flawed = result.held is None or not result.held.survived
        output.write(self.report.end(result, holding.refused))
