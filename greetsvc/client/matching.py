"""Regular expressions on text from the network, in bounded time.

Some patterns take exponential time on some texts (`^(a+)+$` on forty `a` and a `!`), Python's engine cannot be
interrupted, and the far end chooses the text. So what may take long is searched in a process of its own, which the
system ends when its time is over. What cannot take long is searched here.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Matcher", "MatchingFailed"]

_MOST = 1.0
_LEAST = 0.1
"""Limits of the seconds for one text. The reactor waits meanwhile, and with it Ctrl-C."""
_CHEAP = 1_000_000
"""Steps of the engine that take a few hundredths of a second at most."""
_MAX_SHAPE = 20
"""More repeats and alternatives than this are never cheap."""
_LOST_AT_ONCE = 3.0
_LOST_SHARE = 0.1
"""Seconds that may be lost in a row to texts that took too long, and the share of time in the long run."""
_START = 30.0
"""Seconds that the other process may need to start, on a busy machine. The far end has no influence on this."""

_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")

# An alarm without a handler ends a process whatever it does, also in the midst of a search.
_SEARCHER = """
import json, re, signal, sys
pattern, flags = json.loads(sys.stdin.readline())
search = re.compile(pattern, flags).search
sys.stdout.buffer.raw.write(b"r")
for line in sys.stdin:
    text, seconds = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    found = search(text) is not None
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.raw.write(b"1" if found else b"0")
"""


class MatchingFailed(Exception):
    """It is not known whether the pattern matches; the text says why."""


class Matcher:
    """Searches texts for one pattern."""

    def __init__(self, pattern: re.Pattern[str], *, now: Callable[[], float] = time.monotonic) -> None:
        self._pattern = pattern
        self._now = now
        self._repeats, self._branches = _shape(pattern)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] | None = None
        self._allowance, self._allowed_at = _LOST_AT_ONCE, now()

    def matches(self, text: str, seconds: float = _MOST) -> bool:
        """Whether the pattern is found in the text. It may take ``seconds``, within 0.1 and 1.

        :raises MatchingFailed: when that takes longer.
        :raises OSError: when this host cannot start the other process.
        """
        if self._is_cheap(len(text)):
            return self._pattern.search(text) is not None
        now = self._now()
        self._allowance = min(_LOST_AT_ONCE, self._allowance + _LOST_SHARE * (now - self._allowed_at))
        self._allowed_at = now
        if self._allowance <= 0:
            raise MatchingFailed("matching took too long before")
        process = self._process or self._start()
        try:
            return self._search(process, text, max(_LEAST, min(seconds, _MOST)))
        except OSError as error:
            self.close()
            raise MatchingFailed(f"matching failed: {error.strerror or error}") from None

    def close(self) -> None:
        """End the other process; the next search starts another."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _is_cheap(self, length: int) -> bool:
        """Whether a text of this length cannot cost more than `_CHEAP` steps.

        A repeat of one character has as many ways to match as the text is long, an alternative doubles them, and the
        search begins at each character. A group that is repeated multiplies its ways each time.
        """
        if self._repeats is None or self._repeats + self._branches > _MAX_SHAPE:
            return False
        steps: int = (length + 1) ** (self._repeats + 1) << self._branches
        return steps <= _CHEAP

    def _search(self, process: subprocess.Popen[bytes], text: str, seconds: float) -> bool:
        assert process.stdin is not None
        process.stdin.write(json.dumps([text, seconds]).encode() + b"\n")
        process.stdin.flush()
        answer = _read(process, seconds + _START)
        if not answer:
            self._allowance -= seconds
            self.close()
            raise MatchingFailed("matching took too long")
        return answer == b"1"

    def _start(self) -> subprocess.Popen[bytes]:
        # A process group of its own: Ctrl-C at the terminal is not for it.
        command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _SEARCHER]
        process = subprocess.Popen(  # noqa: S603 - this Python, and a program of ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        self._process, self._end = process, weakref.finalize(self, _end_process, process)
        assert process.stdin is not None
        process.stdin.write(json.dumps([self._pattern.pattern, self._pattern.flags]).encode() + b"\n")
        process.stdin.flush()
        if not _read(process, _START):
            self.close()
            raise OSError("the process for it ended")
        return process


def _shape(pattern: re.Pattern[str]) -> tuple[int | None, int]:
    """The number of repeats and of alternatives in a pattern; None for one in which they may be nested."""
    source = pattern.pattern
    if pattern.flags & re.VERBOSE or _BACK_REFERENCE.search(source):
        return None, 0
    bare = _CLASS.sub("c", _ESCAPE.sub("e", source)).replace("(?", "(")
    if re.search(r"\)[*+?{]", bare):
        return None, 0
    return len(re.findall(r"[*+?{]", bare)), bare.count("|")


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """One byte of its answer; none when it has ended, or says nothing in time."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    return os.read(process.stdout.fileno(), 1) if poll.poll(1000 * seconds) else b""


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # what was not yet written has no reader any more
            pipe.close()
    process.wait()
