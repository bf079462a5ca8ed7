"""The plan for a load run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from greetsvc.cli.plan import failure
from greetsvc.client.load.run import Run
from greetsvc.client.report.load import JsonLoadReport, LoadReport, TextLoadReport
from greetsvc.client.report.terminal import DrawnLoadReport, ProgressBar, Terminal
from greetsvc.client.result import GreetFailed
from greetsvc.client.stats import RunStats
from greetsvc.console import Lines, Output

__all__ = ["LoadPlan"]

_REFRESH = 0.25
"""Seconds from one drawing of the progress bar to the next."""


@frozen
class LoadPlan:
    """A load run and its report: ``as_json``, or text, with drawings where there is a ``terminal``."""

    load: Run
    as_json: bool = False
    terminal: Terminal | None = None

    async def run(self, output: Output, stats: RunStats, reactor: Any, now: Callable[[], float]) -> None:
        """Run and report, until done or cancelled; the summary is written either way."""
        report: LoadReport = JsonLoadReport() if self.as_json else TextLoadReport()
        if self.terminal is not None and not self.as_json:
            report = DrawnLoadReport(report, self.terminal)
        output.write(report.begin(self.load))
        with self._above_the_bar(output, reactor, now) as write:
            try:
                with suppress(CancelledError):
                    await self.load.go(lambda *second: write(report.second(*second)), reactor=reactor)
            except GreetFailed as failed:
                output.write(failure(self.load.target, failed, as_json=self.as_json))
                return
            finally:
                self.load.metrics.fill_in(stats)
        output.write(report.end(self.load))

    @contextmanager
    def _above_the_bar(
        self, output: Output, reactor: Any, now: Callable[[], float]
    ) -> Iterator[Callable[[Lines], None]]:
        """Give a function that writes lines during the run; on a terminal they go above a progress bar."""
        if self.as_json or self.terminal is None:
            yield output.write
            return
        start = now()
        bar = ProgressBar(self.load.load_options.duration)
        drawing = LoopingCall(lambda: bar.show(now() - start, self.load.metrics))
        drawing.clock = reactor
        with bar:
            drawing.start(_REFRESH)
            try:
                yield partial(bar.write, output)
            finally:
                drawing.stop()
