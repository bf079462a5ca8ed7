"""Counters of what the server did, as plain integers; the visit log reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from greetsvc.visit import Address

__all__ = ["Ledger"]

_log = Logger(namespace="greetsvc")


def _address(peer: Sequence[Any]) -> Address:
    return Address.plain(peer[0], peer[1])


class Ledger:
    """Counts visits by transport (``greeted``) and what was not greeted by reason (``refused``).

    On connections that go on talking it counts the messages that were answered by transport (``answered``), and the
    connections that were ended for what the peer sent by reason (``ended``).

    Each of ``watchers`` is called with the transport and the peer of a visit after it was counted. A watcher may
    remove itself from the list, or add itself again, at any time; what it raises is logged. ``when_refused`` is
    called after a refusal was counted, and ``when_peer_refused`` with what `refuse_peer` was given.
    """

    def __init__(self) -> None:
        self.greeted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
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

    def refuse(self, reason: str) -> None:
        """A connection or a datagram was not greeted, for ``reason``."""
        self.refused[reason] += 1
        if self.when_refused is not None:
            self.when_refused()

    def refuse_peer(self, reason: str, peer: Any, transport: str) -> None:
        """As `refuse`, where the peer is known.

        ``peer`` is its address as the network has it: an `IAddress`, a tuple, or the name of a UNIX socket.
        """
        self.refuse(reason)
        if self.when_peer_refused is not None:
            self.when_peer_refused(reason, peer, transport)
