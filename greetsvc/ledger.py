"""What happened, as plain integers and the latest visits; the log and the metrics read it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from greetsvc.visit import Address

__all__ = ["Entry", "Ledger"]

LATEST = 64
"""How many of the latest visits are kept."""


class Entry(NamedTuple):
    """One visit that was greeted."""

    number: int
    transport: str
    peer: Address


class Ledger:
    """Counts visits by transport, and what was not greeted by reason.

    ``watchers`` are called with the transport and the peer of each visit, after it was counted.
    """

    def __init__(self) -> None:
        self.visits = 0
        self.greeted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.latest: deque[Entry] = deque(maxlen=LATEST)
        self.watchers: list[Callable[[str, Address], object]] = []

    def number(self) -> int:
        """The number of the visit that is about to be greeted."""
        return self.visits + 1

    def greet(self, transport: str, peer: Address) -> None:
        """A greeting was handed to the network."""
        self.visits = number = self.visits + 1
        self.greeted[transport] += 1
        self.latest.append(Entry(number, transport, peer))
        for watch in self.watchers:
            watch(transport, peer)

    def refuse(self, reason: str) -> None:
        """A connection or a datagram was not greeted, for ``reason``."""
        self.refused[reason] += 1

    def end(self, reason: str) -> None:
        """A connection was ended by us, for ``reason``."""
        self.ended[reason] += 1
