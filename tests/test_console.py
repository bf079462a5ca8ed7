"""Writing to streams that may be closed, full, or without a reader."""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from greetsvc.console import CannotWrite, Lines, Output, ReaderGone


def test_lines_go_to_standard_output_and_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    Output(out, err).write(Lines(["a", "b"], ["c"]))
    assert (out.getvalue(), err.getvalue()) == ("a\nb\n", "c\n")


def test_characters_that_the_locale_cannot_encode_are_escaped() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Output(out, None).write(Lines(["Grüß"], ["nobody hears"]))
    assert raw.getvalue() == b"Gr\\xfc\\xdf\n"


def test_a_pipe_without_a_reader_raises_reader_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as out:
        with pytest.raises(ReaderGone):
            Output(out, None).write(Lines(["a"]))
        out.write("goes nowhere")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_reported() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as out, pytest.raises(CannotWrite, match="No space left"):
        Output(out, None).write(Lines(["a"]))


def test_a_standard_error_without_a_reader_is_ignored() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as err:
        output = Output(None, err)
        output.complain("a")
        output.complain("b")
        output.write(Lines())


def test_a_standard_output_that_is_closed_cannot_be_written() -> None:
    Output(None, None).write(Lines([], ["nobody hears"]))
    with pytest.raises(CannotWrite, match="closed"):
        Output(None, None).write(Lines(["a"]))


# Non-blocking pipes, as node, asyncio and ssh leave them to the programs that they start.

LINES = [f"{number} {'x' * 90}" for number in range(3000)]
WRITE = """
import os, sys
os.set_blocking({fd}, False)
from greetsvc.console import Lines, standard
lines = [f"{{number}} {{'x' * 90}}" for number in range(3000)]
output = standard()
for line in lines[:1500]:
    output.write(Lines([line] if {fd} == 1 else [], [line] if {fd} == 2 else []))
output.write(Lines(lines[1500:] if {fd} == 1 else [], lines[1500:] if {fd} == 2 else []))
"""


def read_slowly(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 5000):
        data += piece
        time.sleep(0.001)
    return data


@pytest.mark.parametrize("fd", [1, 2])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_every_line_is_written_to_a_pipe_that_does_not_block(fd: int, unbuffered: str) -> None:
    reading, writing = os.pipe()
    stream = {"stdout" if fd == 1 else "stderr": writing}
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen([sys.executable, "-c", WRITE.format(fd=fd)], env=environment, **stream) as child:  # type: ignore[call-overload]
        os.close(writing)
        data = read_slowly(reading)
        os.close(reading)
    assert (child.returncode, data.decode().splitlines()) == (0, LINES)


def test_a_reader_that_takes_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greetsvc.console._PATIENCE", 0.05)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w", encoding="utf-8") as out:
        with pytest.raises(CannotWrite, match=r"its reader took nothing for 0\.05 s"):
            Output(out, None).write(Lines(LINES))
        out.write("goes nowhere")
    os.close(reading)


def test_a_reader_that_has_gone_is_noticed_while_waiting_for_room() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w", encoding="utf-8") as out:
        closing = threading.Timer(0.1, os.close, [reading])
        closing.start()
        with pytest.raises(ReaderGone):
            Output(out, None).write(Lines(LINES))
        closing.join()


@pytest.mark.parametrize(
    ("command", "last"),
    [
        (["greet", "--help"], "Show this and exit."),
        (["greetsvc", "--help"], ""),
        (["greet", "-c", "300", "-i", "0", "-v", "--json", "unix:/nonexistent"], '"lost": 300'),
    ],
)
def test_commands_write_everything_to_a_pipe_that_does_not_block(
    command: list[str], last: str, tmp_path: Path
) -> None:
    script = Path(sysconfig.get_path("scripts")) / command[0]
    expected = subprocess.run([script, *command[1:]], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    reading, writing = os.pipe()
    fill = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096) if sys.platform == "linux" else 0
    os.set_blocking(writing, False)
    with subprocess.Popen([script, *command[1:]], cwd=tmp_path, stdout=writing, stderr=subprocess.DEVNULL) as child:
        os.close(writing)
        data = read_slowly(reading)
        os.close(reading)
    assert child.returncode == expected.returncode
    assert data.count(b"\n") == expected.stdout.count(b"\n") > 10, fill
    assert last in data.decode().splitlines()[-1]
