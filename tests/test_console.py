"""Writing to streams that may be closed, full, or without a reader."""

from __future__ import annotations

import io
import os
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
