"""The log of visits: one line per visit as long as a person can read them, else one line per second."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from greetsvc.ledger import Ledger
from greetsvc.server.stream import address_of
from greetsvc.visit import Address

__all__ = ["READABLE", "VisitLog", "peer_address"]

_log = Logger(namespace="greetsvc")

READABLE = 20
"""Visits per second that are logged one by one."""


_PER_REASON = 5
"""Refusals for one reason that are logged one by one in a second, so that one reason does not hide the others."""


class VisitLog:
    """Writes a line for each visit in ``ledger``, up to ``readable`` a second, and sums up the others once a second.

    Refusals whose peer is known have lines too: of the first ``readable`` in a second, the first 5 for each reason.
    With ``readable=0`` all are summed up. Visits and refusals that are only summed up cost nothing here: the sums
    come from the counters of the ledger. `stop` writes the last sums.
    """

    def __init__(self, ledger: Ledger, clock: IReactorTime, *, readable: int = READABLE) -> None:
        self._ledger = ledger
        self._clock = clock
        self._readable = readable
        self._logged: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._room = readable
        self._looked_at: Counter[str] = Counter()  # refusals of this second, up to `readable`
        self._named_refusals = False  # whether some of these have lines of their own
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
        self._ledger.when_refused = self._ledger.when_peer_refused = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._sum_up()

    def _watch(self) -> None:
        self._ledger.when_refused = self._wake
        self._ledger.when_peer_refused = self._turned_away if self._readable else None
        if self._visited not in self._ledger.watchers:
            self._ledger.watchers.append(self._visited)

    def _wake(self) -> None:
        """The first visit or refusal in a while: sum up in a second. Until then the ledger need not call again."""
        self._ledger.when_refused = None
        if self._timer is None:
            self._timer = self._clock.callLater(1, self._second)

    def _turned_away(self, reason: str, peer: Any, transport: str) -> None:
        self._looked_at[reason] += 1
        if self._looked_at.total() >= self._readable:
            self._ledger.when_peer_refused = None  # until the next second
        if self._looked_at[reason] <= _PER_REASON:
            self._refused[reason] += 1
            self._named_refusals = True
            who = _shown(peer_address(peer))
            _log.info("Refused {peer}: {reason} ({transport})", peer=who, reason=reason, transport=transport)

    def _visited(self, transport: str, peer: Address) -> None:
        self._wake()
        if self._room:
            self._room -= 1
            self._logged[transport] += 1
            _log.info("Got a connection from {peer}", peer=_shown(peer), transport=transport)
        if not self._room:
            self._ledger.watchers.remove(self._visited)

    def _second(self) -> None:
        self._timer = None
        if self._sum_up() or self._room < self._readable:
            self._timer = self._clock.callLater(1, self._second)
        self._room = self._readable
        self._looked_at.clear()
        self._named_refusals = False
        self._watch()

    def _sum_up(self) -> bool:
        """Log the number of visits and refusals that were not logged yet; return whether there were any."""
        visits = self._ledger.greeted - self._logged
        if visits:
            self._logged = self._ledger.greeted.copy()
            count = visits.total()
            _log.info(
                "Got {count} {more}{what} in a second: {listed}",
                count=count,
                more="more " if self._readable else "",
                what="connection" if count == 1 else "connections",
                listed=_listed(visits),
                transports=dict(visits),
            )
        refused = self._ledger.refused - self._refused
        if refused:
            self._refused = self._ledger.refused.copy()
            _log.info(
                "Refused {count}{more} in a second: {listed}",
                count=refused.total(),
                more=" more" if self._named_refusals else "",
                listed=_listed(refused),
                reasons=dict(refused),
            )
        return bool(visits or refused)


def peer_address(peer: Any) -> Address:
    """The address of a peer that `Ledger.refuse_peer` was given."""
    if isinstance(peer, tuple):
        return Address.plain(peer[0], peer[1])
    return Address.of_path(peer) if isinstance(peer, str | bytes) else address_of(peer)


def _shown(peer: Address) -> tuple[object, ...] | str:
    return tuple(peer) if peer.port else peer.host or "an unnamed UNIX socket"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
