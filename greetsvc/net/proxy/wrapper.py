"""Connections that begin with a PROXY header: their protocol is built for the source address in the header.

The specification forbids to process or send anything before the header is complete, so the protocol is not built
earlier. (Twisted's own wrapper builds it first: a server that speaks first would greet the proxy.)
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from greetsvc.net.proxy.header import ProxyHeader, ProxyHeaderError, ProxyParser

__all__ = ["Admits", "ProxiedFactory", "ProxiedTransport", "Refusal"]

Refusal: TypeAlias = Literal["proxy-untrusted", "proxy-header", "proxy-timeout", "max-connections"]
"""Why a connection was closed before its protocol was built: a fixed set, so that refusals can be counted."""


class Admits(typing.Protocol):
    """Limits connections whose header is still missing; their source is unknown: ``()``."""

    def has_room(self) -> bool:
        """Whether one more connection may be open."""

    def enter(self, source: tuple[()]) -> None:
        """A connection is open."""

    def leave(self, source: tuple[()]) -> None:
        """A connection is closed."""

    def hand_over(self, pass_on: Callable[[], object]) -> None:
        """A connection has its header: stop counting it, and call ``pass_on()``, which counts it by its source."""


@implementer(ITransport)
class ProxiedTransport:
    """A transport whose peer and host are the addresses in the PROXY header.

    ``via`` is the address of the proxy, or ``None`` if the header had no addresses and those of the transport hold.
    """

    def __init__(self, transport: ITransport, header: ProxyHeader) -> None:
        self._transport = transport
        self._header = header
        self.via: IAddress | None = transport.getPeer() if header.source is not None else None
        self.write = transport.write  # directly, without a call in between
        self.writeSequence = transport.writeSequence
        self.loseConnection = transport.loseConnection
        directlyProvides(self, providedBy(transport))

    def getPeer(self) -> IAddress:
        """The source in the header, or the real peer."""
        return self._header.source or self._transport.getPeer()

    def getHost(self) -> IAddress:
        """The destination in the header, or the real local address."""
        return self._header.destination or self._transport.getHost()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _AwaitingHeader(Protocol):
    """Reads the header, then hands the connection over to the wrapped factory's protocol."""

    def __init__(self, proxied: ProxiedFactory) -> None:
        self._proxied = proxied
        self._parser = ProxyParser()
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        self._proxied.awaiting.add(self)
        if self._proxied.admission is not None:
            self._proxied.admission.enter(())
        self._timer = self._proxied.clock.callLater(self._proxied.timeout, self._refuse, "proxy-timeout")

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:  # this transport has no ``protocol`` to replace, see _hand_over
            self._inner.dataReceived(data)
        elif self._timer.active():
            try:
                result = self._parser.feed(data)
            except ProxyHeaderError:
                self._refuse("proxy-header")
            else:
                if result is not None:
                    self._timer.cancel()
                    self._proxied.awaiting.remove(self)
                    if self._proxied.admission is None:
                        self._hand_over(*result)
                    else:
                        self._proxied.admission.hand_over(partial(self._hand_over, *result))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
            return
        if self._timer.active():
            self._timer.cancel()
            # A connection without a byte is a health check and no refusal; a part of a header is one.
            if self._parser.buffer:
                self._proxied.refuse("proxy-header", self._peer())
        if self in self._proxied.awaiting:  # else it was handed over, and no protocol was built
            self._proxied.awaiting.remove(self)
            if self._proxied.admission is not None:
                self._proxied.admission.leave(())

    def _refuse(self, reason: Refusal) -> None:
        self._proxied.refuse(reason, self._peer())
        self.abort()

    def _peer(self) -> IAddress:
        return cast(ITCPTransport, self.transport).getPeer()

    def abort(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        # Not loseConnection: nothing was sent, so there is nothing to linger for.
        cast(ITCPTransport, self.transport).abortConnection()

    def _hand_over(self, header: ProxyHeader, rest: bytes) -> None:
        outer: Any = self.transport
        transport = ProxiedTransport(outer, header)
        inner = self._proxied.wrapped.buildProtocol(transport.getPeer())
        if inner is None:
            self.abort()
            return
        # From here on the transport calls the inner protocol directly, as after startTLS. So it sees the interfaces
        # of that protocol (half-close), and no call goes through this one.
        replaced = getattr(outer, "protocol", None) is self
        if replaced:
            outer.protocol = inner
        else:
            self._inner = inner
        inner.makeConnection(transport)
        if rest:
            # makeConnection may have closed the connection, or put TLS between transport and protocol.
            receiver = getattr(outer, "protocol", None) if replaced else inner
            if receiver is not None:
                receiver.dataReceived(rest)


@implementer(IProtocolFactory)
class ProxiedFactory:
    """Builds the protocols of ``factory`` for the source addresses in PROXY headers (version 1 or 2).

    ``trusted`` decides by the host of a TCP peer whether its header is trusted; UNIX peers are always trusted, as the
    mode of the socket let them in. ``timeout`` is how many seconds a header may take (the specification asks for at
    least 3). ``refused`` is called with a `Refusal` if a connection is closed before its protocol is built.
    ``admission`` limits the connections that wait for their header.

    The protocol's transport is a `ProxiedTransport`. The header comes before TLS:
    ``ProxiedFactory(TLSMemoryBIOFactory(...))``.
    """

    def __init__(
        self,
        factory: IProtocolFactory,
        *,
        trusted: Callable[[str], bool],
        timeout: float = 3.0,
        refused: Callable[[Refusal], object],
        admission: Admits | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.wrapped = factory
        self.timeout = timeout
        self.refused = refused
        self.clock = reactor
        self.admission = admission
        self.awaiting: set[_AwaitingHeader] = set()
        self._trusted = trusted

    @property
    def noisy(self) -> bool:
        """Whether the log tells when the port starts and closes: as the factory below would have it."""
        return bool(getattr(self.wrapped, "noisy", True))

    def doStart(self) -> None:
        """Start the wrapped factory."""
        self.wrapped.doStart()

    def doStop(self) -> None:
        """Stop the wrapped factory."""
        self.wrapped.doStop()

    def refuse(self, reason: Refusal, peer: IAddress | None) -> None:
        """A connection from ``peer``, the address of the proxy, is closed before its protocol is built."""
        self.refused(reason)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A protocol that waits for the header, or None for a peer that is not trusted: the port then closes."""
        if not isinstance(addr, UNIXAddress) and not self._trusted(getattr(addr, "host", "")):
            self.refuse("proxy-untrusted", addr)
            return None
        if self.admission is not None and not self.admission.has_room():
            self.refuse("max-connections", addr)
            return None
        return _AwaitingHeader(self)

    def abort(self) -> None:
        """Reset every connection that waits for its header."""
        for awaiting in tuple(self.awaiting):
            awaiting.abort()
