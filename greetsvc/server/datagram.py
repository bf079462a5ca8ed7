"""Greeting over datagrams: UDP and UNIX sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Any

from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol

from greetsvc import wire
from greetsvc.greeters.path import PathGreeter
from greetsvc.greeters.registry import Greeter
from greetsvc.ledger import Ledger
from greetsvc.net.linux.packets import Arrival
from greetsvc.net.sockets import reason as reason_of_error
from greetsvc.server.rendering import GreeterFailed, Rendering
from greetsvc.server.sessions import Sessions
from greetsvc.server.stream import address_of
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import NOBODY, Address, PathFacts, Visit

__all__ = ["GreetingDatagramProtocol"]

_PATH = PathGreeter()


class GreetingDatagramProtocol(DatagramProtocol):
    """Answers each request datagram with a greeting, as far as the UDP rule (`UdpPolicy`) allows.

    A plain Twisted protocol: it works on Twisted's own UDP ports, and on `greetsvc.net.datagram.port.DatagramPort`,
    which also tells it the address the request was sent to. Override `greeting` to say something else, or
    `datagramReceived` to do something else.

    ``ledger`` counts; ``policy`` decides who is answered; each protocol has its own where they are left out. With
    ``sessions`` a marked request may want a measured answer or a path record instead of the greeting, and gets it
    where that is a free answer (docs/measure.md). With
    ``transport="unixgram"``, over a UNIX socket, only the loop guard of the policy applies, and a peer without a name
    cannot be answered (counted as ``no-address``).
    """

    noisy = False
    transport: IUDPTransport

    def __init__(
        self,
        greeter: Greeter,
        *,
        ledger: Ledger | None = None,
        policy: UdpPolicy | None = None,
        sessions: Sessions | None = None,
        transport: str = "udp",
    ) -> None:
        self.greeter = greeter
        self.ledger = Ledger() if ledger is None else ledger
        self.policy = UdpPolicy(time.monotonic) if policy is None else policy
        self.sessions = sessions
        self.kind = transport
        self.rendering = Rendering(greeter, self.ledger, transport)
        self._tells_group = False

    def startProtocol(self) -> None:
        """The port is ready. Remember whether it tells the destination of a request: Twisted's own does not."""
        self._tells_group = getattr(self.transport, "tells_destination", False)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer a request from ``addr``: host and port (IPv6: flow and scope too), or the name of a UNIX socket."""
        durations = self.ledger.durations
        began = durations.now() if durations is not None else 0.0
        try:
            greeting, reason = self._judge(datagram, addr)
        except GreeterFailed:
            return
        if reason is None:
            try:
                self._send(greeting, datagram, addr)
            except OSError as error:
                reason = reason_of_error("send", error)
            else:
                if durations is not None:
                    durations.add(durations.now() - began)
                self.ledger.greet(self.kind, addr if type(addr) is tuple else Address.of_path(addr))
                return
        self.ledger.refuse_peer(reason, addr, self.kind)

    def _send(self, answer: bytes, request: bytes, addr: Any) -> None:
        """Send an answer. One that was padded must arrive whole: it shows how long a packet may be."""
        if len(answer) > wire.MAX_MEASURED and len(answer) == wire.padding_of(request):
            self.transport.write_whole(answer, addr)  # type: ignore[attr-defined]
        else:
            self.transport.write(answer, addr)

    def _judge(self, request: bytes, addr: Any) -> tuple[bytes, str | None]:
        """The answer, and the reason why it is not given or None. Raises `GreeterFailed`."""
        if isinstance(addr, tuple):
            group = self._tells_group and self.transport.group  # type: ignore[attr-defined]
            reason = self.policy.never(addr[1], group=group)
            if reason is not None:
                return b"", reason  # no greeting is made for a request that is never answered
            peer = Address.plain(addr[0], addr[1])
            wanted = self._wanted(request, peer)
            if wanted is not None:
                return wanted, None
            greeting = self.greeting(peer, request)
            return greeting, self.policy.refusal(request, greeting, peer, group=group)
        if not addr:
            return b"", "no-address"
        greeting = self.greeting(Address.of_path(addr), request)
        return greeting, self.policy.unix_refusal(request, greeting, os.fsencode(addr))

    def _wanted(self, request: bytes, peer: Address) -> bytes | None:
        """What a request that may be answered wants instead of the greeting; None where it wants, or gets, that."""
        if self.sessions is None or not wire.has_fields(request):
            return None
        arrival: Arrival = getattr(self.transport, "arrival", None) or Arrival()
        padded = wire.padding_of(request) or 0 if getattr(self.transport, "keeps_whole", False) else 0
        facts = (request, 0, len(request), arrival.time, arrival.ttl, arrival.tos)
        answer = self.sessions.answer(*facts, padded)
        if answer is None and wire.fields_of(request).get("w") == "path":
            measured = self.sessions.answer(*facts, wanted="path")
            answer = _PATH.greet(self._visit(peer, request, _PATH.needs, measured))
        free = answer is not None and self.policy.is_free(len(answer), request, 0, len(request), peer.port, False)
        return answer if free else None

    def greeting(self, peer: Address, request: bytes) -> bytes:
        """The greeting for this request. Raises `GreeterFailed` to give no answer."""
        return self.rendering.constant or self.rendering.of(lambda: self._visit(peer, request, self.greeter.needs))

    def _visit(self, peer: Address, request: bytes, needs: Collection[str], measured: bytes | None = None) -> Visit:
        return Visit(
            transport=self.kind,
            peer=peer,
            local=self._local() if "local" in needs else NOBODY,
            number=self.ledger.visits + 1 if "number" in needs else 0,
            when=time.time() if "when" in needs else 0.0,
            size=len(request),
            path=self._path(request, measured) if "path" in needs else None,
        )

    def _local(self) -> Address:
        """The address the request was sent to, where the port tells it; else the one the port is bound to."""
        bound = address_of(self.transport.getHost())
        asked = getattr(self.transport, "asked", None)
        return bound if asked is None else Address.plain(asked, bound.port)

    def _path(self, request: bytes, measured: bytes | None) -> PathFacts:
        arrival = getattr(self.transport, "arrival", None)
        return PathFacts(datagram=arrival, nonce=wire.nonce_of(request), measured=measured)
