"""The file descriptors of this process: how many it may open, and one in reserve for a listener that runs out."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["SpareDescriptor", "raise_limit", "remaining", "require"]

_RESERVE = 16
"""Descriptors that `remaining` leaves to the rest of the program."""


def raise_limit() -> int:
    """Raise this process's limit of open files to the hard limit. Returns the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports an infinite hard limit, and refuses it as a soft one
        return soft
    return hard


def remaining() -> float:
    """Remaining file descriptors of this process, less a reserve of 16; infinite without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    try:
        return limit - len(list(Path("/dev/fd").iterdir())) - _RESERVE
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        raise


def require(count: int) -> None:
    """Raise `OSError` (EMFILE or ENFILE) unless ``count`` more descriptors can be opened."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


class SpareDescriptor:
    """A descriptor that is closed for a moment when no other is left, so that connections can be accepted and closed.

    Otherwise they would stay in the queue, keep the listener readable and the reactor busy, and wait for an answer
    until descriptors are free again.
    """

    def __init__(self) -> None:
        self._fd: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor in reserve."""
        return self._fd is not None

    def open(self) -> None:
        """Open it, if it is not open and a descriptor is left."""
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def accept_and_close(self, listener: socket.socket, limit: int) -> int:
        """Accept and close up to ``limit`` connections that wait, in place of the spare. Returns how many."""
        self.close()
        count = 0
        with suppress(OSError):
            while count < limit:
                os.close(listener._accept()[0])  # type: ignore[attr-defined]  # `socket.accept` without the Python object
                count += 1
        self.open()
        return count
