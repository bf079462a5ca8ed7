"""Writing to a terminal, a file or a pipe whose reader may leave."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from attrs import field, frozen

__all__ = ["CannotWrite", "Lines", "Output", "ReaderGone", "standard"]


@frozen
class Lines:
    """What to write, on standard output and on standard error."""

    out: list[str] = field(factory=list)
    err: list[str] = field(factory=list)


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


class CannotWrite(Exception):
    """Standard output takes no more, and why."""


class Output:
    """Writes whole lines at once, each flushed. What the locale cannot encode is written as an escape."""

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self._out = out
        self._err = err
        for stream in (out, err):
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

    def write(self, lines: Lines) -> None:
        """Standard output first.

        :raises ReaderGone: when nobody reads it any more.
        :raises CannotWrite: when it cannot be written for another reason.
        """
        if self._out is None and lines.out:
            raise CannotWrite("it is closed")
        try:
            _write(self._out, lines.out)
        except BrokenPipeError:
            _let_go(self._out)
            raise ReaderGone from None
        except OSError as error:
            _let_go(self._out)
            raise CannotWrite(os.strerror(error.errno or 0)) from None
        for line in lines.err:
            self.complain(line)

    def complain(self, line: str) -> None:
        """Write to standard error; there is nobody to tell when that fails."""
        try:
            _write(self._err, [line])
        except OSError:
            _let_go(self._err)
            self._err = None


def _write(stream: TextIO | None, lines: list[str]) -> None:
    if stream is not None and lines:
        stream.write("".join(f"{line}\n" for line in lines))
        stream.flush()


def _let_go(stream: TextIO | None) -> None:
    """What is buffered still goes nowhere, or Python would complain about it at exit."""
    assert stream is not None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def standard() -> Output:
    """The process's own."""
    return Output(sys.stdout, sys.stderr)
