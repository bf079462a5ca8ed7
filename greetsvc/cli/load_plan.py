"""A load run as the command line asks for it, checked and ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from greetsvc.client.load.metrics import Second
from greetsvc.client.load.run import Run
from greetsvc.client.report.load import JsonLoad, LoadReport, PlainLoad
from greetsvc.client.report.terminal import Bar, DrawnLoad, Terminal
from greetsvc.client.result import GreetFailed
from greetsvc.client.stats import Tally
from greetsvc.console import Lines, Output
from greetsvc.printable import one_line

__all__ = ["LoadPlan"]

_REFRESH = 0.25
"""Seconds from one drawing of the progress bar to the next."""


@frozen
class LoadPlan:
    """A load run and how to tell of it: ``as_json``, or for people, drawn where there is a ``terminal``."""

    load: Run
    as_json: bool = False
    terminal: Terminal | None = None

    def report(self) -> LoadReport:
        """What makes the lines."""
        if self.as_json:
            return JsonLoad()
        return PlainLoad() if self.terminal is None else DrawnLoad(PlainLoad(), self.terminal)

    async def run(self, output: Output, tally: Tally, reactor: Any, now: Callable[[], float]) -> None:
        """Carry it out and tell, until done or cancelled; the end is told either way. ``tally`` keeps the account."""
        report = self.report()
        output.write(report.begin(self.load))
        with self._above_the_bar(output, reactor, now) as write:

            def each_second(number: int, second: Second, in_flight: int) -> None:
                write(report.second(number, second, in_flight))

            try:
                with suppress(CancelledError):
                    await self.load.go(each_second, reactor=reactor)
            except GreetFailed as failed:
                output.complain(f"greet: {one_line(str(self.load.target))}: {one_line(str(failed))}")
                return
            finally:
                self.load.account.tally(tally)
        output.write(report.end(self.load))

    @contextmanager
    def _above_the_bar(
        self, output: Output, reactor: Any, now: Callable[[], float]
    ) -> Iterator[Callable[[Lines], None]]:
        """What writes lines while the run goes on; at a terminal they go above a progress bar."""
        if self.as_json or self.terminal is None:
            yield output.write
            return
        start = now()
        bar = Bar(self.load.loading.duration)
        drawing = LoopingCall(lambda: bar.show(now() - start, self.load.account))
        drawing.clock = reactor
        with bar:
            drawing.start(_REFRESH)
            try:
                yield partial(bar.write, output)
            finally:
                drawing.stop()
