"""Watching many sockets at the price of one: the reactor sees a single descriptor, an epoll of our own (epoll(7)).

For the reactor each event of a descriptor is a call within a logging context, and each descriptor that goes has to be
unregistered. Sockets that only wait to be closed need neither: closing one is enough to be rid of it.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFDSet
    from twisted.python.failure import Failure

__all__ = ["EpollWatch", "ReactorWatch", "Watch", "watch"]

_EVENTS = 128
"""Sockets that are looked at in one turn of the reactor."""


class Watch(Protocol):
    """Calls ``doRead`` of each descriptor added when there is something to read, until it is forgotten."""

    def add(self, reader: IReadDescriptor) -> None:
        """Watch this one."""
        ...

    def forget(self, reader: IReadDescriptor) -> None:
        """Watch it no longer; its socket is about to be closed."""
        ...

    def stop(self) -> None:
        """Nothing is watched any more."""
        ...


def watch(reactor: IReactorFDSet) -> Watch:
    """The cheapest watch of this platform."""
    return EpollWatch(reactor) if hasattr(select, "epoll") else ReactorWatch(reactor)


class ReactorWatch:
    """Leaves it to the reactor."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        self.add = reactor.addReader
        self.forget = reactor.removeReader

    def stop(self) -> None:
        """See `Watch`."""


@implementer(IReadDescriptor)
class EpollWatch:
    """Watches with an epoll, which is made when it is first needed: not before a fork.

    While there is no descriptor left to make it, the reactor watches.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._epoll: select.epoll | None = None
        self._readers: dict[int, IReadDescriptor] = {}
        self._with_reactor: set[IReadDescriptor] = set()

    def add(self, reader: IReadDescriptor) -> None:
        """See `Watch`."""
        if self._epoll is None:
            try:
                self._epoll = select.epoll()
            except OSError:
                self._with_reactor.add(reader)
                self._reactor.addReader(reader)
                return
            self._reactor.addReader(self)
        descriptor = reader.fileno()
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, reader: IReadDescriptor) -> None:
        """See `Watch`. The kernel forgets the socket when it is closed."""
        if reader in self._with_reactor:
            self._with_reactor.remove(reader)
            self._reactor.removeReader(reader)
        else:
            self._readers.pop(reader.fileno(), None)

    def stop(self) -> None:
        """See `Watch`."""
        self._readers.clear()
        while self._with_reactor:
            self._reactor.removeReader(self._with_reactor.pop())
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor of the epoll; -1 when there is none."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """What the reactor calls this in the log."""
        return "watch"

    def doRead(self) -> None:
        """Pass on what has happened."""
        if self._epoll is None:
            return
        for descriptor, _events in self._epoll.poll(0, _EVENTS):
            reader = self._readers.get(descriptor)
            if reader is not None:
                reader.doRead()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        for reader in list(self._readers.values()):
            reader.connectionLost(reason)
        self.stop()
