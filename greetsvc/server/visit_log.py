"""The log of visits: a line each while a person can read them, one line a second when there are more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twisted.logger import Logger

from greetsvc.ledger import Ledger
from greetsvc.visit import Address

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["READABLE", "VisitLog"]

_log = Logger(namespace="greetsvc")

READABLE = 20
"""Visits that are logged one by one in a second."""


class VisitLog:
    """Writes a line for each visit in ``ledger``, up to ``readable`` a second, and sums up the others once a second.

    With ``readable=0`` all are summed up, as refusals always are. While visits and refusals are only summed up they
    cost nothing here: the ledger has counted them. `stop` writes the last sum.
    """

    def __init__(self, ledger: Ledger, clock: IReactorTime, *, readable: int = READABLE) -> None:
        self._ledger = ledger
        self._clock = clock
        self._readable = readable
        self._logged: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._room = readable
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Log from now on."""
        self._logged = self._ledger.greeted.copy()
        self._refused = self._ledger.refused.copy()
        self._watch()

    def stop(self) -> None:
        """No more visits come."""
        if self._visited in self._ledger.watchers:
            self._ledger.watchers.remove(self._visited)
        self._ledger.when_refused = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._sum_up()

    def _watch(self) -> None:
        self._ledger.when_refused = self._wake
        if self._visited not in self._ledger.watchers:
            self._ledger.watchers.append(self._visited)

    def _wake(self) -> None:
        """There is something to sum up when a second is over."""
        self._ledger.when_refused = None
        if self._timer is None:
            self._timer = self._clock.callLater(1, self._second)

    def _visited(self, transport: str, peer: Address) -> None:
        self._wake()
        if self._room:
            self._room -= 1
            self._logged[transport] += 1
            who = tuple(peer) if peer.port else peer.host or "an unnamed UNIX socket"
            _log.info("Got a connection from {peer}", peer=who, transport=transport)
        if not self._room:
            self._ledger.watchers.remove(self._visited)

    def _second(self) -> None:
        self._timer = None
        summed_up = self._sum_up()
        if summed_up or self._room < self._readable:
            self._timer = self._clock.callLater(1, self._second)
        self._room = self._readable
        self._watch()

    def _sum_up(self) -> bool:
        """Log how many visits and refusals were not logged yet, and whether there were any."""
        more = self._ledger.greeted - self._logged
        if more:
            self._logged = self._ledger.greeted.copy()
            _log.info(
                "Got {count} {more}connections in a second: {kinds}",
                count=more.total(),
                more="more " if self._readable else "",
                kinds=_listed(more),
            )
        refused = self._ledger.refused - self._refused
        if refused:
            self._refused = self._ledger.refused.copy()
            _log.info("Refused {count} in a second: {reasons}", count=refused.total(), reasons=_listed(refused))
        return bool(more or refused)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
