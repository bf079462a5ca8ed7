"""What only a terminal shows: a sparkline, bars, and the progress bar of a load run.

In a pipe, on a dumb terminal, and where the locale does not have the characters, the text stays plain. NO_COLOR keeps
the drawings without colours (no-color.org).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TextIO

from attrs import field, frozen

from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.run import Run
from greetsvc.client.report.drawings import LOST, Trail, bars, sparkline
from greetsvc.client.report.load import LoadReport
from greetsvc.client.report.text import TextReport
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Histogram, RunStats
from greetsvc.console import Lines, Output

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["DrawnLoadReport", "DrawnReport", "ProgressBar", "Terminal", "find_terminal"]

_MAX_WIDTH = 100
_SAMPLE = "▁█▏━"


@frozen
class Terminal:
    """A terminal on which drawings are possible: its columns, and whether to use colours."""

    width: int = 80
    colour: bool = True

    def spark(self, values: list[float | None]) -> str:
        """The sparkline, with losses in red."""
        line = sparkline(values)
        return line.replace(LOST, f"\x1b[31m{LOST}\x1b[0m") if self.colour else line


def find_terminal(stream: TextIO | None, environ: Mapping[str, str]) -> Terminal | None:
    """The terminal of ``stream``; None where there is none, or it cannot show drawings."""
    if stream is None or not stream.isatty() or environ.get("TERM", "dumb") == "dumb":
        return None
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG")  # in this order: locale(7)
    if locale in ("C", "POSIX"):
        return None  # Python uses UTF-8 all the same (PEP 540), but the locale says that the terminal has none
    try:
        _SAMPLE.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return None
    return Terminal(min(shutil.get_terminal_size().columns, _MAX_WIDTH), not environ.get("NO_COLOR"))


@frozen
class DrawnReport:
    """For people at a terminal: a `TextReport`, and at the end the times in their order and their distribution."""

    is_for_programs: ClassVar[bool] = False

    text: TextReport
    terminal: Terminal
    trail: Trail = field(factory=Trail)

    def probe(self, number: int, result: Greeting | GreetFailed, flaws: list[str]) -> Lines:
        """The line of one probe."""
        self.trail.add(None if isinstance(result, GreetFailed) else result.seconds.total)
        return self.text.probe(number, result, flaws)

    def end(self, stats: RunStats) -> Lines:
        """The summary and the drawings."""
        lines = self.text.end(stats)
        if not stats.sent:
            return lines
        each = "each a probe" if self.trail.width == 1 else f"each the longest of {self.trail.width}"
        lost = f", {LOST} lost" if stats.lost else ""
        drawn = ["", self.terminal.spark(self.trail.values), f"over time, {each}{lost}"]
        return Lines([*lines.out, *drawn, *_bars(stats.seconds, self.terminal)], lines.err)


def _bars(seconds: Histogram, terminal: Terminal) -> list[str]:
    rows = bars(seconds, terminal.width)
    return ["", *rows] if rows else []


@frozen
class DrawnLoadReport:
    """The same of a load run."""

    text: LoadReport
    terminal: Terminal
    trail: Trail = field(factory=Trail)

    def begin(self, run: Run) -> Lines:
        """What the run will do."""
        return self.text.begin(run)

    def second(self, number: int, second: SecondCounts, in_flight: int) -> Lines:
        """The line of one second."""
        self.trail.add(None if second.lost else float(second.greeted))
        return self.text.second(number, second, in_flight)

    def end(self, run: Run) -> Lines:
        """The summary and the drawings."""
        lines = self.text.end(run)
        out = list(lines.out)
        if len(self.trail.values) > 1:
            lost = f"; {LOST}: some were lost" if run.metrics.lost else ""
            each = "each second" if self.trail.width == 1 else f"the best of each {self.trail.width} seconds"
            out += ["", self.terminal.spark(self.trail.values), f"greeted, {each}{lost}"]
        return Lines([*out, *_bars(run.histogram, self.terminal)], lines.err)


class ProgressBar:
    """The progress of a load run on the last line; other lines go above it. rich is imported here, and only here."""

    def __init__(self, duration: float, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.completed:.0f} of {task.total:g} s"),
            BarColumn(None, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[greeted]} greeted, {task.fields[lost]} lost"),
            console=Console(file=stream, highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=duration, greeted=0, lost=0)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, elapsed: float, metrics: LoadMetrics) -> None:
        """Show where the run is now."""
        self._progress.update(self._task, completed=elapsed, greeted=metrics.greeted, lost=metrics.lost, refresh=True)

    def write(self, output: Output, lines: Lines) -> None:
        """Write lines above the bar."""
        self._progress.stop()
        output.write(lines)
        self._progress.start()
