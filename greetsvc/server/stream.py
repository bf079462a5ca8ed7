"""Greeting over streams: TCP, TLS and UNIX sockets."""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from zope.interface import implementer

from greetsvc.ledger import Ledger
from greetsvc.net.deadlines import Deadlines
from greetsvc.net.linger.half_close import LingeringClose
from greetsvc.net.linux.packets import read_syn, read_tcp_info
from greetsvc.net.stream.accepted import ADDRESSES
from greetsvc.net.stream.batch import SHORT, IAnswersAtOnce
from greetsvc.net.tls.endpoint import facts
from greetsvc.server.admission import Admission, Source
from greetsvc.server.rendering import GreeterFailed, Rendering
from greetsvc.visit import Address, PathFacts, Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from greetsvc.greeters import Greeter

__all__ = ["GreetingFactory", "GreetingProtocol", "address_of"]


def address_of(address: IAddress | None) -> Address:
    """A Twisted address as an `Address`: a UNIX socket's path with port 0, mapped IPv4 as IPv4."""
    host = getattr(address, "host", None)
    if host is not None:
        return Address.plain(host, cast(int, getattr(address, "port", 0)))
    return Address.of_path(getattr(address, "name", None))


@implementer(IHandshakeListener)
class GreetingProtocol(Protocol):
    """Greets, and closes in a way that lets the greeting arrive whole.

    Over TLS the greeting waits for the handshake. Override `greeting` to say something else, or `greet` to go on
    talking; a subclass works in any Twisted program, on Twisted's own transports too.
    """

    factory: GreetingFactory
    transport: ITCPTransport
    address: IAddress | None = None
    source: Source = ()
    timed = False
    lingers = False
    """Whether the transport itself closes in a way that lets the greeting arrive (`greetsvc.net.ILingers`)."""

    _closing: LingeringClose | None = None
    _over = False

    @property
    def peer(self) -> Address:
        """Who is greeted."""
        return address_of(self.address)

    def connectionMade(self) -> None:
        """Count the connection, start its deadline, and greet unless a handshake comes first."""
        self.factory.enter(self)
        if not ISSLTransport.providedBy(self.transport):
            self.greet()

    def handshakeCompleted(self) -> None:
        """TLS is up: greet."""
        self.greet()

    def greeting(self) -> bytes:
        """What this peer reads. Raises `GreeterFailed` to close without a word."""
        return self.factory.greeting(self)

    def greet(self) -> None:
        """Say the greeting and close."""
        try:
            self.transport.write(self.greeting())
        except GreeterFailed:
            pass
        else:
            self.factory.greeted(self)
        self.close()

    def close(self) -> None:
        """Close when everything is written, and in a way that lets it arrive: also on Twisted's own transports."""
        if self.lingers:
            self.transport.loseConnection()
            return
        closing = self.factory.lingering_close(self.transport)
        if self._over:
            closing.stop()
        else:
            self._closing = closing

    def dataReceived(self, data: bytes) -> None:
        """Nothing that the peer says matters."""
        if self._closing is not None:
            self._closing.discard(data)

    def stays(self) -> None:
        """The connection outlives the callback that made it, because something is still to be said or sent."""
        self.factory.start_deadline(self)

    def expire(self) -> None:
        """The deadline passed: end the connection at once."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, for us; its socket may linger."""
        if not self.lingers:
            self._over = True
            if self._closing is not None:
                self._closing.stop()
        self.factory.leave(self)


@implementer(IAnswersAtOnce)
class GreetingFactory(Factory):
    """Makes a `GreetingProtocol` for each connection that is admitted.

    Where everybody reads the same and the listener can do without, it makes none: see `IAnswersAtOnce`. A subclass,
    and a ``protocol`` of one's own, is always asked.

    ``deadline`` bounds the life of a connection in seconds, ``linger`` the silence of a peer that has yet to close
    after the greeting (where the transport does not see to that). ``transport`` is what visits say they came over:
    ``tcp``, ``tls`` or ``unix``. ``reactor`` is a clock and a timer; the global one when left out.
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
        deadline: float = 10.0,
        linger: float = 2.0,
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
        self._deadlines: Deadlines[GreetingProtocol] = Deadlines(reactor, deadline, self._expire)
        self._rendering = Rendering(greeter, self.ledger, transport)

    def buildProtocol(self, addr: IAddress | None) -> GreetingProtocol | None:  # type: ignore[override]
        """A protocol for the peer at ``addr``, or None where it is not admitted: it is then closed at once."""
        admission = self.admission
        source = admission.source(getattr(addr, "host", ""))
        reason = admission.refusal(source)
        if reason is not None:
            self.ledger.refuse(reason)
            return None
        protocol = self.protocol()
        protocol.factory = self
        protocol.address = addr
        protocol.source = source
        return protocol

    def at_once(self) -> bytes | None:
        """See `IAnswersAtOnce`: one greeting for everybody, and nothing of anybody's own to see it otherwise."""
        greeting = self._rendering.constant
        if greeting is None or len(greeting) > SHORT or "buildProtocol" in self.__dict__:
            return None
        ours = (self.protocol, type(self), type(self.admission), type(self.ledger))
        return greeting if ours == (GreetingProtocol, GreetingFactory, Admission, Ledger) else None

    def admit(self, name: tuple[Any, ...]) -> Callable[[], object] | None:
        """See `IAnswersAtOnce`; who is refused is refused by `buildProtocol`."""
        return self.admission.admit(name[0])

    def answered(self, names: Sequence[tuple[Any, ...]]) -> None:
        """See `IAnswersAtOnce`."""
        self.ledger.greet_all(self.transport, names, _named)

    def enter(self, protocol: GreetingProtocol) -> None:
        """A connection was made: it counts until its socket is closed, and its deadline runs while it stays."""
        transport: Any = protocol.transport
        source = protocol.source
        self.admission.enter(source)
        protocol.timed = False
        call_when_closed = getattr(transport, "call_when_closed", None)
        protocol.lingers = call_when_closed is not None
        if call_when_closed is None:
            self.start_deadline(protocol)
            return
        call_when_closed(partial(self.admission.leave, source) if source else self.admission.leave)
        transport.call_if_it_stays(protocol.stays)

    def start_deadline(self, protocol: GreetingProtocol) -> None:
        """The time of a connection runs."""
        protocol.timed = True
        self._deadlines.add(protocol)

    def leave(self, protocol: GreetingProtocol) -> None:
        """A connection is over, though its socket may linger."""
        if protocol.timed:
            self._deadlines.discard(protocol)
        if not protocol.lingers:
            self.admission.leave(protocol.source)

    def lingering_close(self, transport: ITCPTransport) -> LingeringClose:
        """Closes a transport that does not linger by itself."""
        return LingeringClose(transport, self._reactor, silence=self._linger, lifetime=self._deadline)

    def greeting(self, protocol: GreetingProtocol) -> bytes:
        """The greeting for this visit. Raises `GreeterFailed` where the greeter failed."""
        return self._rendering.constant or self._rendering.of(partial(self._visit, protocol))

    def greeted(self, protocol: GreetingProtocol) -> None:
        """The greeting was handed to the transport."""
        address: Any = protocol.address
        try:
            peer = address.host, address.port
        except AttributeError:
            peer = address_of(address)
        self.ledger.greet(self.transport, peer)

    def _visit(self, protocol: GreetingProtocol) -> Visit:
        transport, needs = protocol.transport, self.greeter.needs
        via = getattr(transport, "via", None)
        return Visit(
            transport=self.transport,
            peer=protocol.peer,
            local=address_of(transport.getHost()),
            number=self.ledger.visits + 1,
            when=time.time(),
            via=via and address_of(via),
            tls=facts(transport) if "tls" in needs else None,
            path=_observed(transport) if "path" in needs else None,
        )

    def _expire(self, protocol: GreetingProtocol) -> None:
        protocol.expire()

    def abort(self) -> None:
        """End every connection at once, and leave no timer."""
        for protocol in tuple(self._deadlines):
            protocol.expire()
        self._deadlines.stop()


def _named(name: tuple[Any, ...]) -> Address:
    """The address with this name, as `accept` has it."""
    return address_of(ADDRESSES[socket.AF_INET if len(name) == 2 else socket.AF_INET6](name))


def _observed(transport: Any) -> PathFacts:
    """What was kept of the packets of a connection, which may lie below TLS."""
    handle = transport.getHandle()
    if not isinstance(handle, socket.socket):
        handle = transport.transport.getHandle()
    return PathFacts(syn=read_syn(handle), tcp=read_tcp_info(handle))
