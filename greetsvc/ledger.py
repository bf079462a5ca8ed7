"""What happened, as plain integers and the latest visits; the log and the metrics read it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.logger import Logger

from greetsvc.visit import Address

__all__ = ["Entry", "Ledger"]

_log = Logger(namespace="greetsvc")

LATEST = 64
"""How many of the latest visits are kept."""

Watcher = Callable[[str, Address], object]


class Entry(NamedTuple):
    """One visit that was greeted."""

    number: int
    transport: str
    peer: Address


def _address(peer: Sequence[Any]) -> Address:
    return Address.plain(peer[0], peer[1])


class Ledger:
    """Counts visits by transport, what was not greeted by reason, and connections that we ended by reason.

    Each of ``watchers`` is called with the transport and the peer of a visit after it was counted; it may leave
    the list, and come back, at any time; what it raises is logged. ``when_refused`` is called after a refusal was
    counted.
    """

    def __init__(self) -> None:
        self.greeted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.watchers: list[Watcher] = []
        self.when_refused: Callable[[], object] | None = None
        # Those that were counted together lie together: so many are enough.
        self._latest: deque[tuple[str, Sequence[Any], Callable[[Any], Address]]] = deque(maxlen=LATEST)

    @property
    def visits(self) -> int:
        """How many were greeted."""
        return self.greeted.total()

    def greet(self, transport: str, peer: Any, address_of: Callable[[Any], Address] = _address) -> None:
        """A greeting was handed to the network for ``peer``, of which `address_of` makes an address when it is read.

        When left out, ``peer`` is a sequence that begins with a host and a port.
        """
        self.greeted[transport] += 1
        self._latest.append((transport, (peer,), address_of))
        if self.watchers:
            for watch in tuple(self.watchers):
                try:
                    watch(transport, address_of(peer))
                except Exception:  # noqa: BLE001 - a visit took place, whatever comes of watching it
                    _log.failure("A visit is counted, but whoever watches failed")

    def greet_all(
        self, transport: str, peers: Sequence[Any], address_of: Callable[[Any], Address] = _address
    ) -> None:
        """As `greet` for each of ``peers``, which is kept as it is."""
        if not self.watchers:
            self.greeted[transport] += len(peers)
            self._latest.append((transport, peers, address_of))
            return
        for peer in peers:
            self.greet(transport, peer, address_of)

    def refuse(self, reason: str) -> None:
        """A connection or a datagram was not greeted, for ``reason``."""
        self.refused[reason] += 1
        if self.when_refused is not None:
            self.when_refused()

    def end(self, reason: str) -> None:
        """A connection was ended by us, for ``reason``."""
        self.ended[reason] += 1

    @property
    def latest(self) -> list[Entry]:
        """The latest visits, oldest first."""
        visits = [(kind, peer, of) for kind, peers, of in self._latest for peer in peers][-LATEST:]
        first = self.visits - len(visits) + 1
        return [Entry(number, kind, of(peer)) for number, (kind, peer, of) in enumerate(visits, first)]
