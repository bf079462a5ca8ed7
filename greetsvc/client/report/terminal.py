"""What only a terminal is shown: a sparkline, bars, and while a load runs a progress bar.

In a pipe, on a dumb terminal, and where the locale has no such characters the text stays plain. NO_COLOR keeps the
shapes and leaves the colours out (no-color.org).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from attrs import field, frozen

from greetsvc.client.load.metrics import Account
from greetsvc.client.report.drawings import LOST, Trail, bars, sparkline
from greetsvc.client.report.load import LoadReport
from greetsvc.client.report.text import Plain
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Tally
from greetsvc.console import Lines, Output

if TYPE_CHECKING:
    from rich.progress import Progress

    from greetsvc.client.load.metrics import Second
    from greetsvc.client.load.run import Run

__all__ = ["Bar", "Drawn", "DrawnLoad", "Terminal", "terminal"]

_WIDEST = 100
_SAMPLE = "▁█▏━"


@frozen
class Terminal:
    """A terminal that can be drawn on: its columns, and whether it wants colours."""

    width: int = 80
    colour: bool = True

    def spark(self, values: list[float | None]) -> str:
        """The sparkline, what was lost in red."""
        line = sparkline(values)
        return line.replace(LOST, f"\x1b[31m{LOST}\x1b[0m") if self.colour else line


def terminal(stream: TextIO | None, environ: Mapping[str, str]) -> Terminal | None:
    """The terminal behind ``stream``; None where there is none, or none that can be drawn on."""
    if stream is None or not stream.isatty() or environ.get("TERM", "dumb") == "dumb":
        return None
    if _locale(environ) in ("C", "POSIX"):
        return None  # Python writes UTF-8 all the same (PEP 540); the terminal was said to have none
    try:
        _SAMPLE.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return None
    return Terminal(min(shutil.get_terminal_size().columns, _WIDEST), not environ.get("NO_COLOR"))


def _locale(environ: Mapping[str, str]) -> str:
    """What decides which characters there are (locale(7))."""
    return environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""


@frozen
class Drawn:
    """For people at a terminal: as `Plain`, and at the end how the times went and how they are spread."""

    plain: Plain
    terminal: Terminal
    trail: Trail = field(factory=Trail)

    def probe(self, number: int, outcome: Greeting | GreetFailed, complaints: list[str]) -> Lines:
        """The line of one probe."""
        self.trail.add(None if isinstance(outcome, GreetFailed) else outcome.seconds.total)
        return self.plain.probe(number, outcome, complaints)

    def end(self, tally: Tally) -> Lines:
        """The summary and the drawings."""
        lines = self.plain.end(tally)
        if not tally.sent:
            return lines
        each = "each a probe" if self.trail.width == 1 else f"each the longest of {self.trail.width}"
        lost = f", {LOST} lost" if tally.lost else ""
        drawn = ["", self.terminal.spark(self.trail.values), f"over time, {each}{lost}"]
        return Lines([*lines.out, *drawn, *_spread_out(tally, self.terminal)], lines.err)


def _spread_out(tally: Tally, shown: Terminal) -> list[str]:
    rows = bars(tally.seconds, shown.width)
    return ["", *rows] if rows else []


@frozen
class DrawnLoad:
    """The same of a load run."""

    plain: LoadReport
    terminal: Terminal
    trail: Trail = field(factory=Trail)

    def begin(self, run: Run) -> Lines:
        """What is about to be done."""
        return self.plain.begin(run)

    def second(self, number: int, second: Second, in_flight: int) -> Lines:
        """The line of one second."""
        self.trail.add(None if second.lost else float(second.greeted))
        return self.plain.second(number, second, in_flight)

    def end(self, run: Run) -> Lines:
        """The summary and the drawings."""
        lines = self.plain.end(run)
        out = list(lines.out)
        if len(self.trail.values) > 1:
            lost = f"; {LOST}: some were lost" if run.account.lost else ""
            each = "each second" if self.trail.width == 1 else f"the best of each {self.trail.width} seconds"
            out += ["", self.terminal.spark(self.trail.values), f"greeted, {each}{lost}"]
        rows = bars(run.histogram, self.terminal.width)
        return Lines([*out, *(["", *rows] if rows else [])], lines.err)


class Bar:
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

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, elapsed: float, account: Account) -> None:
        """Where the run is now."""
        self._progress.update(self._task, completed=elapsed, greeted=account.greeted, lost=account.lost, refresh=True)

    def write(self, output: Output, lines: Lines) -> None:
        """Write lines above the bar."""
        self._progress.stop()
        output.write(lines)
        self._progress.start()
