"""Wait for many sockets outside the reactor: with epoll, or with the same few calls on other systems."""

from __future__ import annotations

import select
import selectors
import sys
from typing import TypeAlias

__all__ = ["ERROR", "HANGUP", "READ", "WRITE", "Poller", "SelectorPoller", "new_poller", "short_sleep"]

READ = 0x1
WRITE = 0x4
ERROR = 0x8
"""The socket failed, or has something in its error queue (EPOLLERR)."""
HANGUP = 0x2000
"""The server has sent its FIN: what can be read now is all there will be (EPOLLRDHUP; others do not tell)."""


class SelectorPoller:
    """The part of ``select.epoll`` that is used, on Python's default selector, for systems without epoll (kqueue)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """A descriptor that is readable when one of the others is ready."""
        return self._selector.fileno()

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor. An earlier one with this number is closed by now, but the selector does not know."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        self._selector.register(fd, _interest(eventmask))

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else."""
        self._selector.modify(fd, _interest(eventmask))

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Which are ready, all at once, and for what; waits at most ``timeout`` seconds.

        kqueue reports a descriptor twice that is ready for reading and writing.
        """
        ready: dict[int, int] = {}
        for key, events in self._selector.select(timeout):
            found = READ * bool(events & selectors.EVENT_READ) | WRITE * bool(events & selectors.EVENT_WRITE)
            ready[key.fd] = ready.get(key.fd, 0) | found
        return list(ready.items())

    def close(self) -> None:
        """Stop watching."""
        self._selector.close()


def _interest(eventmask: int) -> int:
    wanted = selectors.EVENT_READ if eventmask & READ else 0
    return wanted | (selectors.EVENT_WRITE if eventmask & WRITE else 0)


if sys.platform == "linux":
    Poller: TypeAlias = select.epoll | SelectorPoller
else:
    Poller: TypeAlias = SelectorPoller


def new_poller() -> Poller:
    """The fastest that this system has."""
    return select.epoll() if sys.platform == "linux" else SelectorPoller()


def short_sleep(poller: Poller, seconds: float) -> None:
    """Sleep until something is ready, at most ``seconds``: to the microsecond, where epoll has milliseconds only."""
    seconds = max(0.0, seconds)  # the time may have passed by now, and epoll would wait for ever
    try:
        select.select([poller.fileno()], [], [], seconds)
    except ValueError:  # select(2) takes descriptors below 1024
        poller.poll(seconds, 1)
