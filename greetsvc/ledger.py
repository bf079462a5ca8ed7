"""Counters of what the server did, as plain integers; the visit log and the admin site read them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from twisted.logger import Logger

from greetsvc.visit import Address

__all__ = ["BOUNDS", "DATAGRAMS", "Durations", "Ledger"]

_log = Logger(namespace="greetsvc")

DATAGRAMS = frozenset({"udp", "unixgram"})
"""The transports without connections."""

BOUNDS = tuple(step * 10**power for power in range(-5, 1) for step in (1, 2.5, 5))
"""The upper bounds of the buckets of `Durations`, in seconds: from 10 µs to 5 s."""


class Durations:
    """Counts durations by the buckets of `BOUNDS`; the last of ``counts`` has the longer ones.

    ``total`` is their sum and ``latest`` the last one, in seconds. ``now`` is the clock that they are measured with.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.now = now
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.latest = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count a duration, ``count`` times."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count
        self.latest = seconds


def _address(peer: Sequence[Any]) -> Address:
    return Address.plain(peer[0], peer[1])


class Ledger:
    """Counts visits.

    ``greeted``: visits that were greeted, by transport. ``refused``: those that were not, by reason. ``unanswered``:
    the datagrams among these. ``durations``, if set, counts how long greetings took. On connections that go on
    talking, ``answered`` counts the messages that were answered, by transport, and ``ended`` the connections that
    were ended because of what the peer sent, by reason.

    Each of ``watchers`` is called with the transport and the peer of a visit after it was counted. A watcher may
    remove itself from the list, or add itself again, at any time; what it raises is logged. ``when_refused`` is
    called after a refusal was counted, and ``when_peer_refused`` with what `refuse_peer` was given.
    """

    def __init__(self) -> None:
        self.greeted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.durations: Durations | None = None
        self.answered: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.watchers: list[Callable[[str, Address], object]] = []
        self.when_refused: Callable[[], object] | None = None
        self.when_peer_refused: Callable[[str, Any, str], object] | None = None

    @property
    def visits(self) -> int:
        """The number of visits that were greeted."""
        return self.greeted.total()

    def greet(self, transport: str, peer: Any, address_of: Callable[[Any], Address] = _address) -> None:
        """A greeting was handed to the network for ``peer``.

        ``address_of(peer)`` is called for watchers only. Where it is left out, ``peer`` begins with host and port.
        """
        self.greeted[transport] += 1
        if self.watchers:
            for watch in tuple(self.watchers):
                try:
                    watch(transport, address_of(peer))
                except Exception:  # noqa: BLE001 - the visit took place, whatever a watcher makes of it
                    _log.failure("The visit is counted, but a watcher raised")

    def greet_all(
        self, transport: str, peers: Sequence[Any], address_of: Callable[[Any], Address] = _address
    ) -> None:
        """As `greet` for each of ``peers``; without watchers it is one addition, however many there are."""
        if not self.watchers:
            self.greeted[transport] += len(peers)
            return
        for peer in peers:
            self.greet(transport, peer, address_of)

    def add(self, greeted: Mapping[str, int], refused: Mapping[str, int]) -> None:
        """Add what another process counted. Nobody is told of the single visits."""
        self.greeted.update(greeted)
        self.refused.update(refused)
        if any(refused.values()) and self.when_refused is not None:
            self.when_refused()

    def refuse(self, reason: str) -> None:
        """A connection was not greeted, for ``reason``."""
        self.refused[reason] += 1
        if self.when_refused is not None:
            self.when_refused()

    def refuse_datagram(self, reason: str) -> None:
        """A datagram was not answered, for ``reason``."""
        self.unanswered[reason] += 1
        self.refuse(reason)

    def refuse_peer(self, reason: str, peer: Any, transport: str) -> None:
        """As `refuse` or, by ``transport``, `refuse_datagram`, where the peer is known.

        ``peer`` is its address as the network has it: an `IAddress`, a tuple, or the name of a UNIX socket.
        """
        if transport in DATAGRAMS:
            self.refuse_datagram(reason)
        else:
            self.refuse(reason)
        if self.when_peer_refused is not None:
            self.when_peer_refused(reason, peer, transport)
