"""The descriptors of this process: how many it may open, and one in reserve for when a listener runs out of them."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

__all__ = ["SpareDescriptor", "raise_limit", "remaining"]

_RESERVE = 16
"""Descriptors that are left to the rest of the program."""


def raise_limit() -> int:
    """Raise this process's limit of open files as far as it may; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS refuses more than the kernel has, and says infinity
        return soft
    return hard


def remaining() -> float:
    """How many descriptors this process may still open, less a reserve; infinite without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - len(list(Path("/dev/fd").iterdir())) - _RESERVE


class SpareDescriptor:
    """Its place is given up for a moment, so that peers that wait can be accepted and closed.

    Otherwise they would keep the listener readable, and the reactor busy, for as long as there are no descriptors.
    """

    def __init__(self) -> None:
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether there is one."""
        return self._fd is not None

    def hold(self) -> None:
        """Get one, if there is none and it can be had."""
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def release(self) -> None:
        """Give it up."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def turn_away(self, listener: socket.socket, most: int) -> int:
        """Accept and close whoever waits, ``most`` at a time; how many those were."""
        self.release()
        count = 0
        with suppress(OSError):
            while count < most:
                os.close(listener._accept()[0])  # type: ignore[attr-defined]
                count += 1
        self.hold()
        return count
