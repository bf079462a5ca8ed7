"""What the options come to, checked and ready to run; and the run."""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from greetsvc.client.evidence.direction import combined
from greetsvc.client.options import DEFAULT_INTERVAL
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.series import repeat, result_of
from greetsvc.client.report.base import Report
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Expectations, FlowStats, RunStats
from greetsvc.client.target import Target
from greetsvc.client.words import STOPPED
from greetsvc.console import Lines, Output, ReaderGone
from greetsvc.interrupts import raise_interrupts
from greetsvc.net.descriptors import require
from greetsvc.printable import one_line

__all__ = ["Plan", "ProbePlan", "drive", "failure"]


class Plan(Protocol):
    """What `drive` can run."""

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Run and report, until done or cancelled; ``stats`` decide the exit status."""


@frozen
class ProbePlan:
    """One probe, a series of ``count`` (0: until stopped), or with ``flows`` a series from each source port."""

    probe: Probe
    expectations: Expectations
    report: Report
    count: int = 1
    interval: float = DEFAULT_INTERVAL
    verbose: bool = False
    flows: int = 0
    unmeasured: str = "it is one probe"
    """Why no measured answers are asked for, in words; empty to ask for them."""

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Probe and report, until done or cancelled; the summary is written either way."""
        start = now()
        pace: Any = {"count": self.count, "interval": self.interval, "clock": reactor, "now": now}
        port = self.probe.options.source_port

        trace = (lambda line: output.complain(one_line(line))) if self.verbose else None

        probes: list[Probe] = []

        def from_port(port: int | None, *, measure: bool = True) -> Callable[[], Awaitable[Greeting]]:
            probe = self.probe.from_port(port, measure=measure and not self.unmeasured)
            probes.append(probe)
            return partial(probe.run, trace=trace, reactor=reactor)

        def each(number: int, result: Greeting | GreetFailed, flaws: list[str]) -> None:
            if isinstance(result, Greeting):
                left = self.probe.options.timeout - result.seconds.total
                flaws = [*self.expectations.flaws(result, left), *flaws]
            stats.add(result, flaws)
            stats.elapsed = now() - start
            output.write(self.report.probe(number, result, flaws))

        try:
            if self.flows:
                await self._probe_flows(from_port, each, stats, pace)
            elif port is not None:
                from greetsvc.client.probe.flows import PinnedFlow

                pinned = PinnedFlow(port, from_port(port), from_port(None, measure=False))
                async for result in repeat(lambda: result_of(pinned.probe()), **pace):
                    each(stats.sent + 1, result, pinned.diagnosis)
            else:
                probe = from_port(None)
                async for result in repeat(lambda: result_of(probe()), **pace):
                    each(stats.sent + 1, result, [])
            await gatherResults([Deferred.fromCoroutine(used.settle(reactor=reactor)) for used in probes])
        except CancelledError:
            stats.elapsed = now() - start
            if self.count == 1 and not stats.sent and self.report.is_for_programs:
                output.write(self.report.probe(1, GreetFailed(errno.ECANCELED, STOPPED), []))
        finally:
            for used in probes:
                used.close()
        self._conclude(stats, probes)
        output.write(self.report.end(stats))

    def _conclude(self, stats: RunStats, probes: Sequence[Probe]) -> None:
        """Say which way the requests were lost, or why that is not known."""
        measured = [one for one in probes if one.history is not None and one.history.wanted]
        stats.unmeasured = self.unmeasured or next(filter(None, (one.unmeasured for one in measured)), "")
        directions = [one.direction for one in measured]
        if stats.flows is not None:
            stats.flows.directions = directions
        if directions and not stats.unmeasured:
            stats.direction = combined(found for found in directions if found is not None)

    async def _probe_flows(self, from_port: Any, each: Any, stats: RunStats, pace: Any) -> None:
        from greetsvc.client.probe.flows import free_ports, probe_flows

        first, datagram = self.probe.options.source_port, self.probe.target.datagram
        ports = list(range(first, first + self.flows)) if first else free_ports(self.flows, datagram=datagram)
        flows = stats.flows = FlowStats(ports)

        def each_of_flow(number: int, result: Greeting | GreetFailed) -> None:
            flows.add((number - 1) % len(ports), result)
            waiting.append((number, result))
            if self.expectations.expect is None or len(waiting) == len(ports):
                report_waiting()

        def report_waiting() -> None:
            for number, result in waiting:
                each(number, result, [])
            waiting.clear()

        # With a pattern, a round is reported when it is over: matching may take long, and would hold up the others.
        waiting: list[tuple[int, Greeting | GreetFailed]] = []
        try:
            await probe_flows([from_port(port) for port in ports], each_of_flow, **pace)
        finally:
            report_waiting()


def failure(target: Target, failed: GreetFailed, *, as_json: bool) -> Lines:
    """What to write where a run as a whole failed: the same as for one probe."""
    if as_json:
        from greetsvc.client.report.json_lines import JsonReport

        return JsonReport(target, several=False).probe(1, failed, [])
    from greetsvc.client.report.text import TextReport

    return TextReport(target, several=False).probe(1, failed, [])


def _on_signals(reactor: Any, output: Output, stop: Callable[[], object]) -> None:
    """Stop on the signals that the reactor stops on, also while the output has no room.

    Further ones are ignored: at the very end, where Python has no handlers any more, one would change the status.
    """

    def end(_number: int, _frame: object) -> None:
        for number in stopping:
            signal.signal(number, signal.SIG_IGN)
        output.hurry()
        reactor.callFromThread(stop)

    stopping = []

    for number, name in ((signal.SIGINT, "sigInt"), (signal.SIGTERM, "sigTerm")):
        if signal.getsignal(number) == getattr(reactor, name, end):  # it is not ignored
            signal.signal(number, end)
            stopping.append(number)


def _end_without_memory(failures: list[Failure], stop: Callable[[], object]) -> None:
    """Stop with the first MemoryError that Twisted logs.

    It may come anywhere in a callback, and what the callback was to do is then not done: the run might never end.
    """
    to_stderr = textFileLogObserver(sys.stderr)

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure") or event.get("failure")  # of Twisted's old API
        if failure is not None and failure.check(MemoryError):
            failures.append(failure)
            stop()
        elif not failures and event.get("log_level", LogLevel.critical) >= LogLevel.critical:
            to_stderr(event)

    globalLogBeginner.beginLoggingTo([cast("ILogObserver", observe)], redirectStandardIO=False)


def drive(plan: Plan, output: Output, reactor: Any = None, now: Callable[[], float] = time.monotonic) -> int:
    """Run the reactor until the plan is done or a signal stops it; the exit status.

    :raises CannotWrite: when standard output cannot be written.
    :raises OSError: when this process cannot open what the reactor needs.
    """
    stats = RunStats()
    failures: list[Failure] = []
    stopping: list[bool] = []

    def stop(_: object = None) -> None:
        # Once: a signal may come when the run is over, or another when it is being stopped.
        if not stopping:
            stopping.append(True)
            reactor.stop()

    if reactor is None:
        from twisted.internet import reactor

        _end_without_memory(failures, stop)

    def start() -> None:
        _on_signals(reactor, output, stop)
        run = Deferred.fromCoroutine(plan.run(output, stats, reactor, now))
        run.addErrback(failures.append).addCallback(stop)
        reactor.addSystemEventTrigger("before", "shutdown", run.cancel)

    reactor.addSystemEventTrigger("before", "shutdown", lambda: stopping.append(True))
    reactor.callWhenRunning(start)
    require(2)  # the reactor needs a pair for signals, and where there is none it logs a traceback
    raise_interrupts()
    reactor.run()
    for failure in failures:
        if not failure.check(ReaderGone):
            failure.raiseException()
    return stats.status
