"""What is looked at only while there is an admin site: durations, the delay of the event loop, the latest visits."""

from __future__ import annotations

import time
from collections import deque

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from greetsvc.admin.visits import SeenVisit
from greetsvc.ledger import Durations, Ledger
from greetsvc.visit import Address

__all__ = ["KEPT", "Watch"]

KEPT = 20
"""The latest visits that are kept."""

PERIOD = 0.2
"""Seconds between two looks at the delay of the event loop, after each of which some visits are noted."""

NOTED = 4
"""Visits that are noted in one period. All others cost nothing here."""


class Watch:
    """Looks at a running service, at a cost that does not grow with the number of its visits.

    ``loop_delay`` counts how late the reactor was. ``visits`` are the latest ones that were noted, at most `KEPT`.
    ``ledger.durations`` is set from the start on.
    """

    def __init__(self, ledger: Ledger, clock: IReactorTime) -> None:
        self.loop_delay = Durations()
        self.visits: deque[SeenVisit] = deque(maxlen=KEPT)
        self._ledger = ledger
        self._clock = clock
        self._room = 0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Look from now on."""
        self._ledger.durations = Durations()
        self._next()

    def stop(self) -> None:
        """Look no longer."""
        self._stop_noting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, due: float) -> None:
        self.loop_delay.add(max(0.0, self._clock.seconds() - due))
        self._next()

    def _next(self) -> None:
        self._timer = self._clock.callLater(PERIOD, self._look, self._clock.seconds() + PERIOD)
        if self._note not in self._ledger.watchers:
            self._ledger.watchers.append(self._note)
        self._room = NOTED

    def _note(self, transport: str, peer: Address) -> None:
        durations = self._ledger.durations
        seconds = durations.latest if durations is not None else 0.0
        self.visits.append(SeenVisit(time.time(), transport, peer.host, peer.port, seconds))
        self._room -= 1
        if not self._room:
            self._stop_noting()

    def _stop_noting(self) -> None:
        # Without watchers the ledger counts a batch of visits with one addition.
        if self._note in self._ledger.watchers:
            self._ledger.watchers.remove(self._note)
