"""Which of several processes the kernel wakes for a listening socket that they share."""

from __future__ import annotations

import select
from typing import Any

__all__ = ["wake_one"]


def wake_one(reactor: Any, descriptor: int) -> None:
    """Have the kernel wake only one of the processes that wait for this descriptor, and not all (EPOLLEXCLUSIVE).

    Only the epoll that a process waits in can say so, and only when the descriptor is added (epoll_ctl(2)): so it is
    added again, behind the back of Twisted's reactor, with the event that the reactor asked for. Without effect for
    another reactor or system.
    """
    poller = getattr(reactor, "_poller", None)
    if hasattr(select, "EPOLLEXCLUSIVE") and isinstance(poller, select.epoll):
        poller.unregister(descriptor)
        poller.register(descriptor, select.EPOLLIN | select.EPOLLEXCLUSIVE)
