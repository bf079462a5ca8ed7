"""What the command line asks for, checked and ready to run; and the run."""

from __future__ import annotations

import time

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from greetsvc.client.ask import Asking, ask
from greetsvc.client.output import Output
from greetsvc.client.report import Report
from greetsvc.client.run import repeat
from greetsvc.client.show import one_line
from greetsvc.client.tally import Demands, Tally
from greetsvc.client.targets import Target
from greetsvc.client.verdict import GreetFailed, Greeting

__all__ = ["Plan"]


@frozen
class Plan:
    """Whom to ask, how, how often (0: until stopped), how far apart in seconds, and how to tell of it."""

    target: Target
    asking: Asking
    demands: Demands
    report: Report
    count: int = 1
    interval: float = 1.0
    verbose: bool = False

    async def run(self, output: Output, tally: Tally, reactor: IReactorTime) -> None:
        """Ask and tell, until done or cancelled; the end is told either way. ``tally`` keeps the account."""
        start = time.monotonic()

        def trace(line: str) -> None:
            output.complain(one_line(line))

        async def probe() -> Greeting:
            return await ask(self.target, self.asking, trace=trace if self.verbose else None, reactor=reactor)

        def each(number: int, outcome: Greeting | GreetFailed) -> None:
            complaints = [] if isinstance(outcome, GreetFailed) else self.demands.complaints(outcome)
            tally.add(outcome, complaints)
            tally.elapsed = time.monotonic() - start
            output.write(self.report.probe(number, outcome, complaints))

        try:
            await repeat(probe, each, count=self.count, interval=self.interval, clock=reactor, now=time.monotonic)
        except CancelledError:
            tally.elapsed = time.monotonic() - start
        output.write(self.report.end(tally))
