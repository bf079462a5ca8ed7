# mypy: allow-untyped-calls
# (The methods of Twisted's Factory have no types.)
"""Plain Twisted protocols as plugins: what the service promises is put around them, and they need not know."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import DatagramProtocol, connectionDone
from twisted.python.failure import Failure

from greetsvc.ledger import Ledger
from greetsvc.net.sockets import reason as reason_of_error
from greetsvc.printable import shortened
from greetsvc.protocols.registry import Context, Datagrams
from greetsvc.server.stream import GreetingFactory, GreetingProtocol
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import Address

__all__ = ["DatagramService", "HostingProtocol", "StreamService"]


@frozen(kw_only=True)
class StreamService:
    """A plugin of any Twisted protocol: ``factory`` builds one for each connection.

    The connections have TLS, PROXY headers, limits, the deadline (for silence of the peer: any byte puts it off) and
    counters of the service, and the lingering close. Over TLS a protocol is built when the handshake is done.
    """

    factory: IProtocolFactory = field()

    @factory.validator
    def _is_factory(self, _attribute: object, value: object) -> None:
        # Not IProtocolFactory.providedBy: Twisted itself does not ask for it.
        if isinstance(value, type) or not hasattr(value, "buildProtocol"):
            raise TypeError(f"factory must be a protocol factory, such as Factory.forProtocol(…), not {value!r}")

    def stream(self, context: Context) -> GreetingFactory:
        """The factory of a stream listener."""
        return _HostingFactory(self.factory, context)


class HostingProtocol(GreetingProtocol):
    """Has the life of a connection of the service, and passes it on to a protocol that knows nothing of that."""

    factory: _HostingFactory
    _guest: IProtocol | None = None
    _expired = False

    def greet(self) -> None:
        """The connection may be open, and TLS stands: build the guest."""
        guest = self.factory.guests.buildProtocol(self.address)  # type: ignore[arg-type]  # None if unknown
        if guest is None:
            self.close()
            return
        self._guest = guest
        self.factory.greeted(self)
        guest.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """For the guest; the deadline begins anew."""
        self.factory.start_deadline(self)
        if self._guest is None:
            super().dataReceived(data)
        else:
            self._guest.dataReceived(data)

    def expire(self) -> None:
        """The peer was silent until the deadline: close. If it does not let that happen either: abort."""
        if self._expired or self._guest is None:
            super().expire()
        else:
            self._expired = True
            self.factory.start_deadline(self)
            self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, for the guest as well."""
        super().connectionLost(reason)
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.connectionLost(reason)


class _HostingFactory(GreetingFactory):
    protocol = HostingProtocol

    def __init__(self, guests: IProtocolFactory, context: Context) -> None:
        super().__init__(
            context.greeter,
            ledger=context.ledger,
            admission=context.admission,
            deadline=context.deadline,
            linger=context.linger,
            transport=context.transport,
            reactor=context.reactor,
        )
        self.guests = guests

    def doStart(self) -> None:
        """There is a port: the guests' factory hears of it, too."""
        super().doStart()
        self.guests.doStart()

    def doStop(self) -> None:
        """The port is gone."""
        super().doStop()
        self.guests.doStop()


@frozen(kw_only=True)
class DatagramService:
    """A plugin of any Twisted `DatagramProtocol`: ``make()`` makes that of a listener.

    Its answers keep the UDP rule of the service: what `UdpPolicy` refuses is not sent, and counted. With
    ``loop_safe`` its author promises that it answers no answer of its own, nor that of another service; then an
    answer that is not longer than its request is free, as it can neither amplify nor loop. With ``headers``,
    ``transport.arrival`` tells the TTL and DSCP of each datagram.
    """

    make: Callable[[], DatagramProtocol]
    loop_safe: bool = False
    headers: bool = False

    def datagram(self, context: Context) -> Datagrams:
        """The protocol of a datagram listener."""
        made = self.make()
        if isinstance(made, type) or not hasattr(made, "datagramReceived"):
            raise TypeError(f"make() returned {shortened(repr(made), 100)}, which is no DatagramProtocol")
        return Datagrams(_RuledDatagrams(made, context, self.loop_safe), headers=self.headers)


class _RuledDatagrams(DatagramProtocol):
    """Stands between a port and a protocol, for each of which it is the other: requests in, permitted answers out."""

    noisy = False
    transport: Any

    def __init__(self, guest: DatagramProtocol, context: Context, loop_safe: bool) -> None:
        self._guest = guest
        self._loop_safe = loop_safe
        self._ledger: Ledger = context.ledger
        self._policy: UdpPolicy = context.policy
        self._kind = context.transport
        self._request = b""
        self._counted = True
        self._began = 0.0

    # For the port

    def startProtocol(self) -> None:
        self._guest.makeConnection(self)  # type: ignore[arg-type]  # the part of IUDPTransport that answers need

    def stopProtocol(self) -> None:
        self._guest.doStop()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        reason = self._never(addr)
        if reason is not None:
            self._ledger.refuse_peer(reason, addr, self._kind)
            return
        self._request, self._counted = datagram, False
        durations = self._ledger.durations
        self._began = durations.now() if durations is not None else 0.0
        try:
            self._guest.datagramReceived(datagram, addr)
        finally:
            self._request, self._counted = b"", True

    # For the protocol, as its transport

    def write(self, datagram: bytes, addr: Any = None) -> int:
        """Send an answer, if it may be sent; how many bytes were sent. An answer that comes later is a paid one."""
        reason = self._refusal(datagram, addr)
        if reason is None:
            try:
                sent: int = self.transport.write(datagram, addr)
            except OSError as error:
                reason = reason_of_error("send", error)
            else:
                if not self._counted:
                    self._counted = True
                    durations = self._ledger.durations
                    if durations is not None:
                        durations.add(durations.now() - self._began)
                    self._ledger.greet(self._kind, addr if type(addr) is tuple else Address.of_path(addr))
                return sent
        self._ledger.refuse_peer(reason, addr, self._kind)
        return 0

    def __getattr__(self, name: str) -> Any:
        """Everything else is the port's: ``getHost``, ``asked``, ``group``, ``arrival``."""
        if name == "transport":  # not connected yet
            raise AttributeError(name)
        return getattr(self.transport, name)

    # The rule

    def _never(self, addr: Any) -> str | None:
        if isinstance(addr, tuple):
            return self._policy.never(addr[1], group=self.transport.group)
        return None if addr else "no-address"

    def _refusal(self, answer: bytes, addr: Any) -> str | None:
        reason = self._never(addr)
        if reason is not None or (self._loop_safe and len(answer) <= len(self._request)):
            return reason
        if isinstance(addr, tuple):
            peer = Address.plain(addr[0], addr[1])
            return self._policy.refusal(self._request, answer, peer)
        return self._policy.unix_refusal(self._request, answer, os.fsencode(addr))
