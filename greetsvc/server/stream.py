"""Greeting over streams: TCP, TLS and UNIX sockets."""

from __future__ import annotations

import socket
import time
from functools import partial
from operator import methodcaller
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IHandshakeListener, IReactorTime, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.greeters.registry import Greeter
from greetsvc.ledger import Ledger
from greetsvc.net.deadlines import Deadlines
from greetsvc.net.linger.half_close import LingeringClose
from greetsvc.net.linger.watched import SILENCE
from greetsvc.net.linux.packets import read_syn
from greetsvc.net.linux.tcp_info import read_tcp_info
from greetsvc.server.admission import Admission, Source
from greetsvc.server.rendering import GreeterFailed, Rendering
from greetsvc.visit import NOBODY, Address, PathFacts, Visit

__all__ = ["DEADLINE", "GreetingFactory", "GreetingProtocol", "address_of", "path_facts"]

DEADLINE = 10.0
"""Seconds that a connection may live."""


def address_of(address: IAddress | None) -> Address:
    """A Twisted address as an `Address`: a UNIX socket's path with port 0, IPv4 mapped into IPv6 as IPv4."""
    host = getattr(address, "host", None)
    if host is not None:
        return Address.plain(host, cast(int, getattr(address, "port", 0)))
    return Address.of_path(getattr(address, "name", None))


@implementer(IHandshakeListener)
class GreetingProtocol(Protocol):
    """Sends the greeting and closes, so that the greeting arrives whole even if the peer is still sending.

    Over TLS the greeting waits for the handshake. Override `greeting` to send something else, or `greet` to keep the
    connection open; a subclass works in any Twisted program, also on Twisted's own transports.
    """

    factory: GreetingFactory
    transport: ITCPTransport
    address: IAddress | None = None
    """The address of the peer, as Twisted has it."""
    source: Source = ()
    """What the connection counts as in ``factory.admission``."""
    began = 0.0
    """When the connection was made, by the clock of ``factory.ledger.durations``, if that is set."""
    lingers = False
    """Whether ``loseConnection`` of the transport is a lingering close (`greetsvc.net.linger.sweep.ILingers`)."""

    _closing: LingeringClose | None = None
    _lost = False

    @property
    def peer(self) -> Address:
        """The address of the peer."""
        return address_of(self.address)

    def connectionMade(self) -> None:
        """Count the connection, start its deadline, and greet unless a TLS handshake comes first."""
        self.factory.enter(self)
        if not ISSLTransport.providedBy(self.transport):
            self.greet()

    def handshakeCompleted(self) -> None:
        """The TLS handshake is complete: greet."""
        self.greet()

    def greeting(self) -> bytes:
        """The bytes to send to this peer. Raises `GreeterFailed` to close without a greeting."""
        return self.factory.greeting(self)

    def greet(self) -> None:
        """Send the greeting and close."""
        try:
            self.transport.write(self.greeting())
        except GreeterFailed:
            pass
        else:
            self.factory.greeted(self)
        self.close()

    def close(self) -> None:
        """Close when everything is written, with a lingering close on every transport. May be called again."""
        if self.lingers:
            self.transport.loseConnection()
        elif self._closing is None:
            self._closing = self.factory.lingering_close(self.transport)
            if self._lost:  # a transport may call connectionLost before it returns from the close
                self._closing.stop()

    def dataReceived(self, data: bytes) -> None:
        """Ignore what the peer sends."""
        if self._closing is not None:
            self._closing.discard(data)

    def expire(self) -> None:
        """The deadline has passed: abort the connection."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over for the protocol; its socket may linger."""
        if not self.lingers:
            self._lost = True
            if self._closing is not None:
                self._closing.stop()
        self.factory.leave(self)


class GreetingFactory(Factory):
    """Makes a `GreetingProtocol` for each connection that is admitted.

    ``greeter`` makes the greetings. ``ledger`` counts visits and refusals, ``admission`` limits open connections:
    new ones when left out. ``deadline`` bounds the life of a connection in seconds; ``linger`` bounds the silence of
    a peer that has not closed after the greeting, in seconds, on transports that do not linger themselves.
    ``transport`` is what visits came over: ``tcp``, ``tls`` or ``unix``. ``reactor`` is the clock: the global one
    when left out.

    Set ``protocol`` to a subclass of `GreetingProtocol` to change what happens on a connection.
    """

    # A narrower type than Factory's: what is made here has our factory, and never none.
    protocol: type[GreetingProtocol] = GreetingProtocol  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        greeter: Greeter,
        *,
        ledger: Ledger | None = None,
        admission: Admission | None = None,
        deadline: float = DEADLINE,
        linger: float = SILENCE,
        transport: str = "tcp",
        reactor: IReactorTime | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as global_reactor

            reactor = cast(IReactorTime, global_reactor)
        self.greeter = greeter
        self.ledger = Ledger() if ledger is None else ledger
        self.admission = Admission() if admission is None else admission
        self.transport = transport
        self._reactor = reactor
        self._deadline = deadline
        self._linger = linger
        self._deadlines: Deadlines[GreetingProtocol] = Deadlines(reactor, deadline, methodcaller("expire"))
        self._rendering = Rendering(greeter, self.ledger, transport)

    def buildProtocol(self, addr: IAddress | None) -> GreetingProtocol | None:  # type: ignore[override]
        """A protocol for the peer at ``addr``, or None where it is not admitted: the listener then closes at once."""
        admission = self.admission
        source = admission.source(getattr(addr, "host", ""))
        reason = admission.refusal(source)
        if reason is not None:
            self.ledger.refuse_peer(reason, addr, self.transport)
            return None
        protocol = self.protocol()
        protocol.factory = self
        protocol.address = addr
        protocol.source = source
        return protocol

    def enter(self, protocol: GreetingProtocol) -> None:
        """A connection was made: it counts until its socket is closed, and has a deadline while it is open."""
        transport: Any = protocol.transport
        source = protocol.source
        self.admission.enter(source)
        if self.ledger.durations is not None:
            protocol.began = self.ledger.durations.now()
        # Not ILingers.providedBy, which takes three times as long; wrappers of transports delegate the attribute.
        call_when_closed = getattr(transport, "call_when_closed", None)
        protocol.lingers = call_when_closed is not None
        if call_when_closed is None:
            self.start_deadline(protocol)
            return
        call_when_closed(partial(self.admission.leave, source) if source else self.admission.leave)
        transport.call_if_it_stays(partial(self.start_deadline, protocol))

    def start_deadline(self, protocol: GreetingProtocol) -> None:
        """Start the deadline of a connection."""
        self._deadlines.add(protocol)

    def leave(self, protocol: GreetingProtocol) -> None:
        """A connection is over, though its socket may linger."""
        self._deadlines.discard(protocol)
        if not protocol.lingers:
            self.admission.leave(protocol.source)

    def lingering_close(self, transport: ITCPTransport) -> LingeringClose:
        """Close a transport that does not linger itself."""
        return LingeringClose(transport, self._reactor, silence=self._linger, lifetime=self._deadline)

    def greeting(self, protocol: GreetingProtocol) -> bytes:
        """The greeting for this connection. Raises `GreeterFailed` where the greeter failed."""
        return self._rendering.constant or self._rendering.of(partial(self._visit, protocol))

    def greeted(self, protocol: GreetingProtocol) -> None:
        """The greeting was handed to the transport."""
        durations = self.ledger.durations
        if durations is not None:
            durations.add(durations.now() - protocol.began)
        self.ledger.greet(self.transport, protocol.address, address_of)

    def _visit(self, protocol: GreetingProtocol) -> Visit:
        """The visit, with the fields that the greeter needs: the others would cost system calls for nothing."""
        transport, needs = protocol.transport, self.greeter.needs
        via = getattr(transport, "via", None) if "via" in needs else None
        return Visit(
            transport=self.transport,
            peer=protocol.peer,
            local=address_of(transport.getHost()) if "local" in needs else NOBODY,
            number=self.ledger.visits + 1 if "number" in needs else 0,
            when=time.time() if "when" in needs else 0.0,
            via=via and address_of(via),
            tls=_tls_facts(transport) if "tls" in needs else None,
            path=path_facts(transport) if "path" in needs else None,
        )

    @property
    def is_busy(self) -> bool:
        """Whether a connection is open, besides those whose socket lingers."""
        return any(True for _ in self._deadlines)

    def finish(self) -> None:
        """The service stops: end the connections that would go on. Those that only greet end by themselves."""

    def abort(self) -> None:
        """Abort every open connection, and leave no timer behind."""
        for protocol in tuple(self._deadlines):
            protocol.expire()
        self._deadlines.stop()


def _tls_facts(transport: Any) -> Any:
    from greetsvc.net.tls.endpoint import facts  # few greeters need it, and it imports all of TLS

    return facts(transport)


def path_facts(transport: Any) -> PathFacts:
    """What the kernel knows of the packets of a connection. Its socket may be that of the transport below TLS."""
    handle = transport.getHandle()
    if not isinstance(handle, socket.socket):
        handle = transport.transport.getHandle()
    return PathFacts(syn=read_syn(handle), tcp=read_tcp_info(handle))
