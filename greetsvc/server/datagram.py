"""Greeting over datagrams: UDP and UNIX sockets."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer

from greetsvc import wire
from greetsvc.ledger import Ledger
from greetsvc.net.datagram.offer import IAnswersInBatches, Offer
from greetsvc.net.datagram.port import reason as failure
from greetsvc.server.rendering import Rendering, Speechless
from greetsvc.server.stream import address_of
from greetsvc.server.udp_policy import UdpRule
from greetsvc.visit import Address, PathFacts, Visit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IUDPTransport

    from greetsvc.greeters import Greeter

__all__ = ["GreetingDatagramProtocol"]


@implementer(IAnswersInBatches)
class GreetingDatagramProtocol(DatagramProtocol):
    """Answers each request with a greeting, as far as the UDP rule lets it.

    Works on Twisted's own UDP ports as well as on `greetsvc.net.DatagramPort`, which besides tells it the
    address that was asked. Over a UNIX socket (``transport="unixgram"``) only the loop guard of the rule applies;
    a peer without a name cannot be answered.
    """

    noisy = False
    transport: IUDPTransport

    def __init__(
        self, greeter: Greeter, *, ledger: Ledger | None = None, rule: UdpRule | None = None, transport: str = "udp"
    ) -> None:
        self.greeter = greeter
        self.ledger = Ledger() if ledger is None else ledger
        self.rule = UdpRule(time.monotonic) if rule is None else rule
        self.kind = transport
        self.rendering = Rendering(greeter, self.ledger, transport)
        self._tells_group = False

    def startProtocol(self) -> None:
        """The port is ready: find out whether it tells where a request was sent to."""
        self._tells_group = getattr(self.transport, "tells_destination", False)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer a request from ``addr``: host and port (IPv6 with flow and scope), or the path of a UNIX socket."""
        try:
            greeting, reason = self._judge(datagram, addr)
        except Speechless:
            return
        if reason is None:
            try:
                self.transport.write(greeting, addr)
            except OSError as error:
                reason = failure("send", error)
            else:
                self.ledger.greet(self.kind, addr if type(addr) is tuple else Address.of_path(addr))
                return
        self.ledger.refuse(reason)

    def in_batches(self) -> Offer | None:
        """See `IAnswersInBatches`: what is free, where nothing is anybody's own to see it otherwise."""
        greeting = self.rendering.constant
        ours = (type(self), type(self.rule), type(self.ledger))
        if greeting is None or "datagramReceived" in self.__dict__:
            return None
        if ours != (GreetingDatagramProtocol, UdpRule, Ledger):
            return None
        return self.rule.free(greeting)

    def answered(self, names: Sequence[tuple[Any, ...]]) -> None:
        """See `IAnswersInBatches`."""
        self.ledger.greet_all(self.kind, names)

    def _judge(self, request: bytes, addr: Any) -> tuple[bytes, str | None]:
        """The answer, and why it is not given. Raises `Speechless`."""
        greeting = self.rendering.constant
        if isinstance(addr, tuple):
            group = self._tells_group and self.transport.group  # type: ignore[attr-defined]
            if greeting is None:
                reason = self.rule.never(addr[1], group=group)
                if reason is not None:
                    return b"", reason
                greeting = self.greeting(Address.plain(addr[0], addr[1]), request)
            return greeting, self.rule.refusal(request, greeting, addr, group=group)
        if not addr:
            return b"", "no-address"
        greeting = greeting or self.greeting(Address.of_path(addr), request)
        return greeting, self.rule.unix_refusal(request, greeting, os.fsencode(addr))

    def greeting(self, peer: Address, request: bytes) -> bytes:
        """The greeting for this request. Raises `Speechless` to give no answer."""
        return self.rendering.of(lambda: self._visit(peer, request))

    def _visit(self, peer: Address, request: bytes) -> Visit:
        local = address_of(self.transport.getHost())
        asked = getattr(self.transport, "asked", None)
        return Visit(
            transport=self.kind,
            peer=peer,
            local=local if asked is None else Address.plain(asked, local.port),
            number=self.ledger.visits + 1,
            when=time.time(),
            size=len(request),
            path=PathFacts(datagram=getattr(self.transport, "arrival", None), nonce=wire.nonce_of(request))
            if "path" in self.greeter.needs
            else None,
        )
