"""What only a terminal shows, on a terminal of the test's own."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.run import Run
from greetsvc.client.report.load import TextLoadReport
from greetsvc.client.report.terminal import DrawnLoadReport, DrawnReport, ProgressBar, Terminal, find_terminal
from greetsvc.client.report.text import TextReport
from greetsvc.client.result import GreetFailed, Greeting, Seconds
from greetsvc.client.stats import RunStats
from greetsvc.client.target import parse
from greetsvc.console import Lines, Output
from greetsvc.visit import Address
from tests.support.greet import GREET

TARGET = parse("127.0.0.1:8088")


class Screen(io.StringIO):
    """Text that says it is a terminal."""

    def __init__(self, *, shown: bool = True, encoding: str = "utf-8") -> None:
        super().__init__()
        self._shown = shown
        self._encoding = encoding

    def isatty(self) -> bool:
        return self._shown

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


XTERM = {"TERM": "xterm"}


@pytest.mark.parametrize(
    ("screen", "environ"),
    [
        (None, XTERM),
        (Screen(shown=False), XTERM),
        (Screen(), {"TERM": "dumb"}),
        (Screen(), {}),
        (Screen(encoding="ascii"), XTERM),
        (Screen(encoding="klingon"), XTERM),
        (Screen(), {**XTERM, "LC_ALL": "C", "LANG": "de_DE.UTF-8"}),
        (Screen(), {**XTERM, "LC_CTYPE": "POSIX"}),
        (Screen(), {**XTERM, "LC_ALL": "", "LANG": "C"}),
    ],
)
def test_a_pipe_a_dumb_terminal_and_one_without_the_characters_get_plain_text(
    screen: Screen | None, environ: dict[str, str]
) -> None:
    assert find_terminal(screen, environ) is None


def test_a_terminal_has_its_width_and_colours_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert find_terminal(Screen(), XTERM) == Terminal(72, colour=True)
    assert find_terminal(Screen(), {**XTERM, "NO_COLOR": "1"}) == Terminal(72, colour=False)
    assert find_terminal(Screen(), {**XTERM, "NO_COLOR": ""}) == Terminal(72, colour=True)
    monkeypatch.setenv("COLUMNS", "300")
    assert find_terminal(Screen(), XTERM) == Terminal(100)


def greeting(seconds: float) -> Greeting:
    return Greeting(TARGET, b"hi", "hi", Seconds(total=seconds), Address("127.0.0.1", 8088), "fin")


def drawn(*times: float | None, colour: bool = False) -> list[str]:
    report = DrawnReport(TextReport(TARGET, several=True), Terminal(80, colour))
    stats = RunStats(elapsed=1.0)
    for number, seconds in enumerate(times):
        result = GreetFailed(111, "refused", "connect") if seconds is None else greeting(seconds)
        report.probe(number, result, [])
        stats.add(result, [])
    return report.end(stats).out


def test_probes_end_with_a_line_of_their_times_and_bars() -> None:
    out = drawn(0.001, 0.002, None, 0.008)
    assert out[:2] == ["", "4 sent, 3 greeted, 1 lost (25 %), 3 a second"]
    assert out[4:7] == ["", "▁▂x█", "over time, each a probe, x lost"]
    assert sum(int(row.split()[-1]) for row in out[8:]) == 3
    assert max(map(len, out)) <= 80
    assert drawn(0.001, None, colour=True)[5] == "▁\x1b[31mx\x1b[0m"


def test_with_very_many_probes_a_cell_is_the_longest_of_several() -> None:
    out = drawn(*[0.001] * 200)
    assert out[5:7] == ["▁" * 50, "over time, each the longest of 4"]


def test_a_run_without_a_greeting_has_no_bars() -> None:
    assert drawn() == ["", "0 sent, 0 greeted, 0 lost (0 %), 0 a second"]
    assert drawn(None)[2:] == ["", "x", "over time, each a probe, x lost"]


def load_drawn(*seconds: SecondCounts) -> list[str]:
    report, run = DrawnLoadReport(TextLoadReport(), Terminal(80, colour=False)), Run(TARGET, duration=3)
    assert report.begin(run).out[0].startswith("tcp:127.0.0.1:8088: 16 at a time")
    run.metrics.elapsed = 3.0
    for number, second in enumerate(seconds, 1):
        assert len(report.second(number, second, 0).out) == 1
        run.metrics.lost += second.lost
        for _ in range(second.greeted):
            run.metrics.add_greeted([0.001], [0.001], flawed=0)
    return report.end(run).out


def test_a_load_run_ends_with_its_seconds_and_bars() -> None:
    out = load_drawn(SecondCounts(9, 9, 0), SecondCounts(9, 1, 8), SecondCounts(9, 5, 0))
    assert "█x▁" in out
    assert "greeted, each second; x: some were lost" in out
    assert out[-1].endswith(" 15")
    out = load_drawn(*[SecondCounts(1, 1, 0)] * 130)
    assert "greeted, the best of each 4 seconds" in out


def test_a_load_run_of_one_second_has_no_line_of_seconds() -> None:
    assert load_drawn(SecondCounts(0, 0, 0)) == ["", "0 sent, 0 greeted, 0 lost (0 %), 0 a second"]


def test_the_bar_stays_below_the_lines_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen()
    output = Output(screen, None)
    with ProgressBar(10, screen) as bar:
        bar.show(4.0, LoadMetrics(greeted=1234, lost=5))
        bar.write(output, Lines(["a line"]))
    text = screen.getvalue()
    assert re.search(r"4 of 10 s .*━.* 1234 greeted, 5 lost", text)
    assert "a line\n" in text
    assert text.rstrip("\n").endswith("\x1b[2K\x1b[?25h") or text.endswith("\x1b[2K")


def at_a_terminal(*arguments: str, stop_at: bytes = b"", environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Run `greet` on a terminal of 80 columns; Ctrl-C is typed when ``stop_at`` shows."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "80",
        "PYTHONIOENCODING": "utf-8",
        "LC_ALL": "C.UTF-8",
        **(environ or {}),
    }
    with subprocess.Popen([GREET, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env) as running:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            seen += piece
            if stop_at and stop_at in seen:
                running.send_signal(signal.SIGINT)
                stop_at = b""
        os.close(ours)
        return running.wait(30), seen.decode()


@pytest.fixture
def hello(peers: Any) -> str:
    target: str = peers.stream(lambda connection: connection.sendall(b"hello\r\n"))
    return target


def test_at_a_terminal_probes_are_drawn(hello: str) -> None:
    status, seen = at_a_terminal("-c", "3", "-i", "0.01", hello)
    assert status == 0
    assert "over time, each a probe" in seen
    assert "█" in seen
    status, seen = at_a_terminal("-c", "3", "-i", "0.01", hello, environ={"TERM": "dumb"})
    assert status == 0
    assert "over time" not in seen


def test_ctrl_c_at_a_terminal_ends_a_load_run_with_its_summary(hello: str) -> None:
    status, seen = at_a_terminal("--duration", "30", "--rate", "50", hello, stop_at=b"         1 ")
    assert status == 0
    assert "of 30 s" in seen
    assert re.search(r"stopped after [12]\.\d{3} s with \d+ in flight", seen)
    assert "from intended start" in seen


def test_no_color_means_none(hello: str) -> None:
    status, seen = at_a_terminal("--duration", "0.5", "--concurrency", "1", hello, environ={"NO_COLOR": "1"})
    assert status == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", seen)


def test_rich_is_not_imported_unless_a_load_runs_at_a_terminal() -> None:
    said = "import sys, greetsvc.cli.command; print([name for name in sys.modules if name.split('.')[0] == 'rich'])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
