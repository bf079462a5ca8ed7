"""Server-sent events: everyone who watches gets the same message, and nobody who does not read holds anything up.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

__all__ = ["MAX_WATCHERS", "PATIENCE", "PERIOD", "RATE", "Connection", "Events", "event"]

_log = Logger(namespace="greetsvc")

MAX_WATCHERS = 256
"""Watchers at a time."""

PERIOD = 0.5
"""Seconds between two messages. They are made in the middle of the periods of the clock.

Workers send their figures at the beginning of these, so each message has the same number of reports of each worker.
"""

RATE = 100
"""Messages a second to all watchers together, about: with more than 50 of them they come less often."""

SLICE = 16
"""Watchers that are sent a message in one turn of the reactor. To send one takes 20 µs, for which visitors wait."""

GAP = 0.01
"""Seconds from one slice to the next."""

PATIENCE = 30.0
"""Seconds for which a watcher may not read before its connection is aborted."""


class Connection(Protocol):
    """What a watcher needs of an HTTP request that is being answered."""

    def write(self, data: bytes) -> object:
        """Send a part of the answer."""
        ...

    def registerProducer(self, producer: Any, streaming: bool) -> object:
        """See `twisted.internet.interfaces.IConsumer`."""
        ...

    def unregisterProducer(self) -> object:
        """See `twisted.internet.interfaces.IConsumer`."""
        ...

    def abort(self) -> object:
        """Abort the connection."""
        ...


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event. JSON has no line ends of its own, so ``data`` cannot end the event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")


class Events:
    """Sends ``news()`` to each watcher every `PERIOD` seconds, or as often as `RATE` allows, while there are any.

    A message stands for itself, so a watcher whose connection is full misses it and gets a later one. What can wait
    for one watcher is so bounded by a message and the buffers of its connection.
    """

    def __init__(self, news: Callable[[], bytes], clock: IReactorTime) -> None:
        self._news = news
        self._clock = clock
        self._watchers: dict[Connection, _Watcher] = {}
        self._message = b""
        self._left: list[Connection] = []
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._watchers)

    @property
    def full(self) -> bool:
        """Whether there are `MAX_WATCHERS`."""
        return len(self._watchers) >= MAX_WATCHERS

    def add(self, connection: Connection) -> None:
        """Send each message to ``connection`` from now on, until it is discarded."""
        self._watchers[connection] = watcher = _Watcher(self._clock)
        connection.registerProducer(watcher, True)
        if self._timer is None:
            self._next()

    def discard(self, connection: Connection) -> None:
        """Its connection is over."""
        if self._watchers.pop(connection, None) is not None:
            connection.unregisterProducer()
        if not self._watchers:
            self._stop_timer()

    def stop(self) -> None:
        """Abort the connections of all watchers, and leave no timer behind."""
        for connection in tuple(self._watchers):
            self.discard(connection)
            connection.abort()
        self._stop_timer()

    def _stop_timer(self) -> None:
        self._left.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        periods = math.ceil(max(1.0, len(self._watchers) / RATE / PERIOD))
        now = self._clock.seconds()
        self._timer = self._clock.callLater(periods * PERIOD - (now + PERIOD / 2) % PERIOD, self._begin)

    def _begin(self) -> None:
        try:
            self._message = self._news()
        except Exception:  # noqa: BLE001 - the next message may be better
            _log.failure("The admin site could not make a message for its watchers")
            self._next()
            return
        self._left = [*self._watchers]
        self._send()

    def _send(self) -> None:
        self._timer = None
        for connection in self._left[:SLICE]:
            self._send_to(connection)
        del self._left[:SLICE]
        if self._left:
            self._timer = self._clock.callLater(GAP, self._send)
        elif self._watchers:
            self._next()

    def _send_to(self, connection: Connection) -> None:
        watcher = self._watchers.get(connection)
        if watcher is None:
            return
        if watcher.full_since is None:
            connection.write(self._message)
        elif self._clock.seconds() - watcher.full_since > PATIENCE:
            self.discard(connection)
            connection.abort()


@implementer(IPushProducer)
class _Watcher:
    """Remembers since when the connection of a watcher has been full; None while it is not."""

    def __init__(self, clock: IReactorTime) -> None:
        self.full_since: float | None = None
        self._clock = clock

    def pauseProducing(self) -> None:
        """The connection is full."""
        self.full_since = self._clock.seconds()

    def resumeProducing(self) -> None:
        """It is not any more."""
        self.full_since = None

    def stopProducing(self) -> None:
        """It is lost; the site is told in another way."""
