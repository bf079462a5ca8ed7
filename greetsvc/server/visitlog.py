"""The log of visits: a line each while a person can read them, one line a second when there are more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twisted.logger import Logger

from greetsvc.visit import Address

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["READABLE", "VisitLog"]

READABLE = 20
"""Visits that are logged one by one in a second."""


class VisitLog:
    """Writes a line for each visit, up to ``readable`` a second, and sums up the others once a second.

    With ``readable=0`` all are summed up. `stop` writes the last sum.
    """

    log = Logger(namespace="greetsvc")

    def __init__(self, clock: IReactorTime, *, readable: int = READABLE) -> None:
        self._clock = clock
        self._readable = readable
        self._room = readable
        self._more: Counter[str] = Counter()
        self._timer: IDelayedCall | None = None

    def visited(self, transport: str, peer: Address) -> None:
        """A visit was greeted."""
        if self._room:
            self._room -= 1
            who = tuple(peer) if peer.port else peer.host or "an unnamed UNIX socket"
            self.log.info("Got a connection from {peer}", peer=who, transport=transport)
        else:
            self._more[transport] += 1
        if self._timer is None:
            self._timer = self._clock.callLater(1, self._second)

    def stop(self) -> None:
        """No more visits come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sum_up()

    def _second(self) -> None:
        busy = self._room < self._readable or bool(self._more)
        self._room = self._readable
        self._sum_up()
        self._timer = self._clock.callLater(1, self._second) if busy else None

    def _sum_up(self) -> None:
        if self._more:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self._more.items()))
            self.log.info(
                "Got {count} {more}connections in a second: {kinds}",
                count=self._more.total(),
                more="more " if self._readable else "",
                kinds=kinds,
            )
            self._more.clear()
