"""The log of visits: one line per visit as long as a person can read them, else one line per second."""

from __future__ import annotations

from collections import Counter

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from greetsvc.ledger import Ledger
from greetsvc.visit import Address

__all__ = ["READABLE", "VisitLog"]

_log = Logger(namespace="greetsvc")

READABLE = 20
"""Visits per second that are logged one by one."""


class VisitLog:
    """Writes a line for each visit in ``ledger``, up to ``readable`` a second, and sums up the others once a second.

    With ``readable=0`` all visits are summed up, as refusals always are. Visits and refusals that are only summed up
    cost nothing here: the sums come from the counters of the ledger. `stop` writes the last sums.
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
        """Write the last sums, and log no longer."""
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
        """The first visit or refusal in a while: sum up in a second. Until then the ledger need not call again."""
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
        if self._sum_up() or self._room < self._readable:
            self._timer = self._clock.callLater(1, self._second)
        self._room = self._readable
        self._watch()

    def _sum_up(self) -> bool:
        """Log the number of visits and refusals that were not logged yet; return whether there were any."""
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
