"""Connections behind a proxy, whose refusals count with the peer that the proxy named."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress

from greetsvc.ledger import Ledger
from greetsvc.net.proxy.wrapper import ProxiedFactory, Refusal

__all__ = ["CountedFactory"]


class CountedFactory(ProxiedFactory):
    """Counts refusals in ``ledger`` with the peer."""

    ledger: Ledger
    transport: str

    def refuse(self, reason: Refusal, peer: IAddress | None) -> None:
        """See `ProxiedFactory`."""
        self.ledger.refuse_peer(reason, peer, self.transport)
