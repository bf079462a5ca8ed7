"""Connections that begin with a PROXY header: the protocol is built for the source that the header names.

The specification wants nothing to be processed, and nothing said, before the header is whole; so the protocol does
not exist until then.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import directlyProvides, implementer, providedBy

from greetsvc.net.proxy.header import ProxyHeader, ProxyHeaderError, ProxyParser

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

__all__ = ["Admits", "ProxiedFactory", "ProxiedTransport", "Refusal"]

Refusal: TypeAlias = Literal["proxy-untrusted", "proxy-header", "proxy-timeout", "max-connections"]
"""Why a connection was closed before its protocol existed; a fixed set, to count by."""


class Admits(typing.Protocol):
    """Counts connections that have not said yet where they come from, and so have no source: ``()``."""

    def has_room(self) -> bool:
        """Whether one more may be open."""
        ...

    def enter(self, source: tuple[()]) -> None:
        """One is open."""
        ...

    def leave(self, source: tuple[()]) -> None:
        """One is closed."""
        ...

    def hand_over(self, pass_on: Callable[[], object]) -> None:
        """One is counted by its source from here on, if ``pass_on()``, which is called, lets it."""
        ...


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
        self._proxied.enter(self)
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
                    self._proxied.hand_over(self, partial(self._hand_over, *result))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
            return
        if self._timer.active():
            self._timer.cancel()
            # One that came and said nothing is a health check; a part of a header is no header.
            if self._parser.started:
                self._proxied.refused("proxy-header")
        self._proxied.leave(self)

    def _refuse(self, reason: Refusal) -> None:
        self._proxied.refused(reason)
        self.abort()

    def abort(self) -> None:
        """End it at once."""
        if self._timer.active():
            self._timer.cancel()
        # Not loseConnection: nothing was said that would be worth lingering for.
        cast(ITCPTransport, self.transport).abortConnection()

    def _hand_over(self, header: ProxyHeader, rest: bytes) -> None:
        outer: Any = self.transport
        transport = ProxiedTransport(outer, header)
        inner = self._proxied.wrapped.buildProtocol(transport.getPeer())
        if inner is None:
            self.abort()
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
    when a connection is closed before there is a protocol. ``admission`` counts those that wait for their header.

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
        admission: Admits | None = None,
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
        self._admission = admission
        self._awaiting: set[_AwaitingHeader] = set()

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
        if self._admission is not None and not self._admission.has_room():
            self.refused("max-connections")
            return None
        return _AwaitingHeader(self)

    def enter(self, awaiting: _AwaitingHeader) -> None:
        """A connection waits for its header."""
        self._awaiting.add(awaiting)
        if self._admission is not None:
            self._admission.enter(())

    def leave(self, awaiting: _AwaitingHeader) -> None:
        """It is closed; it may have been handed over."""
        if awaiting in self._awaiting:
            self._awaiting.remove(awaiting)
            if self._admission is not None:
                self._admission.leave(())

    def hand_over(self, awaiting: _AwaitingHeader, pass_on: Callable[[], object]) -> None:
        """Its header is here, and what comes next is called."""
        self._awaiting.remove(awaiting)
        if self._admission is None:
            pass_on()
        else:
            self._admission.hand_over(pass_on)

    def abort(self) -> None:
        """End every connection that waits for its header."""
        for awaiting in tuple(self._awaiting):
            awaiting.abort()
