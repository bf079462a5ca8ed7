"""Writes lines to standard output and standard error, which may be closed, full, or a pipe whose reader has gone.

A pipe may also be non-blocking: its other users, such as node, asyncio and ssh, set that for all who share it. A text
stream then loses what does not fit, so the bytes are written here, and wait for room.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

__all__ = ["CannotWrite", "Lines", "Output", "ReaderGone", "standard"]


_PATIENCE = 30.0
"""Seconds that a non-blocking stream may take nothing. A blocking one waits for ever, as the system has it."""

_HURRY = 1.0
"""The same for both, once the command is to end."""


class Lines:
    """Lines for standard output and for standard error."""

    def __init__(self, out: Sequence[str] = (), err: Sequence[str] = ()) -> None:
        self.out = [*out]
        self.err = [*err]


class ReaderGone(Exception):
    """The reader of standard output has gone."""


class CannotWrite(Exception):
    """Standard output cannot be written; the text says why."""


class Output:
    """Writes lines and flushes them. Characters that the locale cannot encode are written as escapes."""

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self._out = out
        self._err = err
        self._hurried = self._is_writing = False
        for stream in (out, err):
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

    def write(self, lines: Lines) -> None:
        """Write to standard output, then to standard error.

        :raises ReaderGone: if standard output is a pipe without a reader.
        :raises CannotWrite: if it cannot be written for another reason.
        """
        if self._out is None and lines.out:
            raise CannotWrite("it is closed")
        try:
            self._send(self._out, lines.out)
        except OSError as error:
            _discard_buffer(self._out)
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from None
            if isinstance(error, TimeoutError):
                patience = _HURRY if self._hurried else _PATIENCE
                raise CannotWrite(f"its reader took nothing for {patience:g} s") from None
            raise CannotWrite(os.strerror(error.errno or 0)) from None
        for line in lines.err:
            self.complain(line)

    def complain(self, line: str) -> None:
        """Write a line to standard error. A failure is ignored: there is no other place to report it."""
        try:
            self._send(self._err, [line])
        except OSError:
            _discard_buffer(self._err)
            self._err = None

    def hurry(self) -> None:
        """The command is to end: from now on a reader that takes nothing for a second makes writing fail.

        A signal handler calls it. A write that blocks would go on after that, and the command could not be ended.
        """
        import signal  # its 3 ms are for this only

        if not self._hurried:
            self._hurried = True
            signal.signal(signal.SIGALRM, _give_up)
            if self._is_writing:
                signal.setitimer(signal.ITIMER_REAL, _HURRY)

    def _send(self, stream: TextIO | None, lines: Sequence[str]) -> None:
        if stream is None or not lines:
            return
        text = "".join(f"{line}\n" for line in lines)
        try:
            fd = stream.fileno()
        except OSError:  # a stream in memory
            stream.write(text)
            stream.flush()
            return
        stream.flush()
        data = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
        self._is_writing = True
        try:
            while data:
                self._set_alarm(_HURRY)
                try:
                    data = data[os.write(fd, data) :]
                except BlockingIOError:
                    _wait_for_room(fd)
        finally:
            self._is_writing = False
            self._set_alarm(0)

    def _set_alarm(self, seconds: float) -> None:
        if self._hurried:
            import signal

            signal.setitimer(signal.ITIMER_REAL, seconds)


def _give_up(_number: int, _frame: object) -> None:
    raise TimeoutError


def _wait_for_room(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(1000 * _PATIENCE):
        raise TimeoutError


def _discard_buffer(stream: TextIO | None) -> None:
    """Send what is still buffered to /dev/null. Otherwise Python would fail to flush it at exit, and report that."""
    assert stream is not None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def standard() -> Output:
    """Standard output and standard error of this process."""
    return Output(sys.stdout, sys.stderr)
