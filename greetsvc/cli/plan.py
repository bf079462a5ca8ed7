"""What the command line asks for, checked and ready to run; and the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from greetsvc.client.probe.flows import Flows, Pinned, free_ports, in_rounds
from greetsvc.client.probe.greet import Asking, ask
from greetsvc.client.probe.series import repeat
from greetsvc.client.report.text import Report
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Demands, Tally
from greetsvc.client.target import Target
from greetsvc.console import Output, ReaderGone
from greetsvc.printable import one_line

__all__ = ["Plan", "Runnable", "drive"]


@frozen
class Plan:
    """Whom to ask, how, how often (0: until stopped), how far apart in seconds, and how to tell of it.

    With ``flows``, that many source ports are asked each time: from the given one on, or free ones.
    """

    target: Target
    asking: Asking
    demands: Demands
    report: Report
    count: int = 1
    interval: float = 1.0
    verbose: bool = False
    flows: int = 0

    async def run(self, output: Output, tally: Tally, reactor: IReactorTime, now: Callable[[], float]) -> None:
        """Ask and tell, until done or cancelled; the end is told either way. ``tally`` keeps the account."""
        start = now()

        def trace(line: str) -> None:
            output.complain(one_line(line))

        first = self.asking.outgoing.source_port
        ports = self._ports()
        tally.flows = Flows(ports) if ports else None
        pinned = Pinned(first) if first is not None and not ports else None

        async def probe_from(port: int | None) -> Greeting:
            asking = evolve(self.asking, outgoing=evolve(self.asking.outgoing, source_port=port))
            return await ask(self.target, asking, trace=trace if self.verbose else None, reactor=reactor)

        async def probe() -> Greeting:
            if pinned is None:
                return await probe_from(None)
            return await pinned.probe(lambda: probe_from(first), lambda: probe_from(None))

        def each(number: int, outcome: Greeting | GreetFailed) -> None:
            complaints = [] if isinstance(outcome, GreetFailed) else self.demands.complaints(outcome)
            if pinned is not None and pinned.finding:
                complaints.append(pinned.finding)
            if tally.flows is not None:
                tally.flows.add((number - 1) % len(ports), outcome)
            tally.add(outcome, complaints)
            tally.elapsed = now() - start
            output.write(self.report.probe(number, outcome, complaints))

        try:
            pace: Any = {"count": self.count, "interval": self.interval, "clock": reactor, "now": now}
            if ports:
                await in_rounds(lambda flow: probe_from(ports[flow]), each, flows=len(ports), **pace)
            else:
                await repeat(probe, each, **pace)
        except CancelledError:
            tally.elapsed = now() - start
        output.write(self.report.end(tally))

    def _ports(self) -> tuple[int, ...]:
        """The source ports of the flows."""
        first = self.asking.outgoing.source_port
        if not self.flows or first is None:
            return tuple(free_ports(self.flows, datagram=self.target.datagram)) if self.flows else ()
        return tuple(range(first, first + self.flows))


class Runnable(Protocol):
    """What `drive` can carry out."""

    async def run(self, output: Output, tally: Tally, reactor: Any, now: Callable[[], float]) -> None:
        """Do it and tell, until done or cancelled; ``tally`` says what exit status it earns."""


def drive(plan: Runnable, output: Output, reactor: Any = None, now: Callable[[], float] = time.monotonic) -> int:
    """Run the reactor until the plan is carried out or a signal stops it; the exit status.

    :raises CannotWrite: when standard output takes no more, and not because its reader left.
    """
    if reactor is None:
        from twisted.internet import reactor
    tally = Tally()
    running: list[Deferred[None]] = []
    failures: list[Failure] = []

    def start() -> None:
        run = Deferred.fromCoroutine(plan.run(output, tally, reactor, now))
        running.append(run)
        run.addErrback(failures.append).addCallback(lambda _: stopping or reactor.stop())

    def stop() -> None:
        stopping.append(True)
        for run in running:
            run.cancel()

    stopping: list[bool] = []
    reactor.addSystemEventTrigger("before", "shutdown", stop)
    reactor.callWhenRunning(start)
    reactor.run()
    for failure in failures:
        if not failure.check(ReaderGone):
            failure.raiseException()
    return tally.status
