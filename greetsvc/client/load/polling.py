"""Waiting for many sockets outside the reactor: epoll itself, or the same few calls where there is none."""

from __future__ import annotations

import select
import selectors
import sys
from typing import Protocol

__all__ = ["HANGUP", "READ", "WRITE", "Poller", "Selecting", "nap", "poller"]

READ = 0x1
WRITE = 0x4
HANGUP = 0x2000
"""The far end has sent its FIN: what can be read now is all there will be (EPOLLRDHUP; other systems do not tell)."""


class Poller(Protocol):
    """The part of ``select.epoll`` that is used. A descriptor that is closed is forgotten by itself."""

    def fileno(self) -> int:
        """A descriptor that is readable when one of the others is ready."""

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor."""

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else."""

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Which are ready, and for what; waits at most ``timeout`` seconds."""

    def close(self) -> None:
        """Watch nothing any more."""


class Selecting:
    """The same for systems without epoll, on the selector that Python thinks best (kqueue)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """The selector's own descriptor."""
        return self._selector.fileno()

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor; an earlier one of this number is closed by now."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        self._selector.register(fd, _interest(eventmask))

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else."""
        self._selector.modify(fd, _interest(eventmask))

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Which are ready; the system's selectors give them all at once, kqueue one twice that is ready for both."""
        ready: dict[int, int] = {}
        for key, events in self._selector.select(timeout):
            found = READ * bool(events & selectors.EVENT_READ) | WRITE * bool(events & selectors.EVENT_WRITE)
            ready[key.fd] = ready.get(key.fd, 0) | found
        return list(ready.items())

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()


def _interest(eventmask: int) -> int:
    wanted = selectors.EVENT_READ if eventmask & READ else 0
    return wanted | (selectors.EVENT_WRITE if eventmask & WRITE else 0)


def poller() -> Poller:
    """The best that this system has."""
    return select.epoll() if sys.platform == "linux" else Selecting()


def nap(polled: Poller, seconds: float) -> None:
    """Sleep until something is ready, at most so long: to the microsecond, where epoll knows milliseconds only."""
    try:
        select.select([polled.fileno()], [], [], seconds)
    except ValueError:  # select(2) takes descriptors below 1024
        polled.poll(seconds, 1)
