"""Connections that begin with a PROXY header: the protocol is built for the source that the header names.

The specification wants nothing to be processed, and nothing said, before the header is whole; so the protocol does
not exist until then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import directlyProvides, implementer, providedBy

from greetsvc.net.proxy import ProxyHeader, ProxyHeaderError, ProxyParser

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

__all__ = ["ProxiedFactory", "ProxiedTransport", "Refusal"]

Refusal: TypeAlias = Literal["proxy-untrusted", "proxy-header", "proxy-timeout"]
"""Why a connection was closed before its protocol existed; a fixed set, to count by."""


@implementer(ITransport)
class ProxiedTransport:
    """A transport as it is, but for who is at its ends: those that the PROXY header named.

    ``via`` is the address of the proxy, or ``None`` when the header named nobody and the ends are the real ones.
    """

    def __init__(self, transport: ITransport, header: ProxyHeader) -> None:
        self._transport = transport
        self._header = header
        self.via: IAddress | None = transport.getPeer() if header.source is not None else None
        directlyProvides(self, providedBy(transport))

    def getPeer(self) -> IAddress:
        """The named source, or the real peer."""
        return self._header.source or self._transport.getPeer()

    def getHost(self) -> IAddress:
        """The named destination, or the real local address."""
        return self._header.destination or self._transport.getHost()

    def write(self, data: bytes) -> None:
        """See `ITransport`."""
        self._transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See `ITransport`."""
        self._transport.writeSequence(data)

    def loseConnection(self) -> None:
        """See `ITransport`."""
        self._transport.loseConnection()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _AwaitingHeader(Protocol):
    """Gathers the header, and then steps aside."""

    def __init__(self, proxied: ProxiedFactory) -> None:
        self._proxied = proxied
        self._parser = ProxyParser()
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        self._timer = self._proxied.clock.callLater(self._proxied.timeout, self._refuse, "proxy-timeout")

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:  # a transport that knows only the protocol it was made with
            self._inner.dataReceived(data)
        elif self._timer.active():
            try:
                result = self._parser.feed(data)
            except ProxyHeaderError:
                self._refuse("proxy-header")
            else:
                if result is not None:
                    self._timer.cancel()
                    self._hand_over(*result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif self._timer.active():
            self._timer.cancel()
            # One that came and said nothing is a health check; a part of a header is no header.
            if self._parser.started:
                self._proxied.refused("proxy-header")

    def _refuse(self, reason: Refusal) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._proxied.refused(reason)
        self._abort()

    def _abort(self) -> None:
        # Not loseConnection: nothing was said that would be worth lingering for.
        cast(ITCPTransport, self.transport).abortConnection()

    def _hand_over(self, header: ProxyHeader, rest: bytes) -> None:
        outer: Any = self.transport
        transport = ProxiedTransport(outer, header)
        inner = self._proxied.wrapped.buildProtocol(transport.getPeer())
        if inner is None:
            self._abort()
            return
        # From here on the transport talks to the protocol itself, as after startTLS: half-closes and losses find
        # the protocol's own interfaces, and no call goes through this one any more.
        steps_aside = getattr(outer, "protocol", None) is self
        if steps_aside:
            outer.protocol = inner
        else:
            self._inner = inner
        inner.makeConnection(transport)
        if rest:
            # It may be gone by now, or have TLS before it.
            receiver = getattr(outer, "protocol", None) if steps_aside else inner
            if receiver is not None:
                receiver.dataReceived(rest)


@implementer(IProtocolFactory)
class ProxiedFactory:
    """Builds ``factory``'s protocols for the sources that PROXY headers (version 1 or 2) name.

    ``trusted`` is asked with the host of each TCP peer whether its header counts; a UNIX peer was let in by the mode
    of the socket. ``timeout`` is how many seconds a header may take. ``refused`` is told why, one of `Refusal`,
    when a connection is closed before there is a protocol.

    The protocol's transport is a `ProxiedTransport`: its peer and host are the named ones, ``via`` is the proxy.
    TLS goes inside: ``ProxiedFactory(TLSMemoryBIOFactory(…))``.
    """

    def __init__(
        self,
        factory: IProtocolFactory,
        *,
        trusted: Callable[[str], bool],
        timeout: float = 3.0,
        refused: Callable[[Refusal], object],
        reactor: IReactorTime | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as global_reactor

            reactor = cast("IReactorTime", global_reactor)
        self.wrapped = factory
        self.timeout = timeout
        self.refused = refused
        self.clock = reactor
        self._trusted = trusted

    def doStart(self) -> None:
        """Start the wrapped factory."""
        self.wrapped.doStart()

    def doStop(self) -> None:
        """Stop the wrapped factory."""
        self.wrapped.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Nothing for a peer that is not trusted: whoever listens closes the connection."""
        if not isinstance(addr, UNIXAddress) and not self._trusted(getattr(addr, "host", "")):
            self.refused("proxy-untrusted")
            return None
        return _AwaitingHeader(self)
