"""A peer of a protocol in memory: what the network and a reactor would do, in steps that a test chooses."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.greeters.registry import Greeter
from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.protocols.registry import Context
from greetsvc.server.admission import Admission
from greetsvc.server.udp_policy import UdpPolicy

__all__ = ["DEADLINE", "MemoryPeer", "context"]

DEADLINE = 10.0
_BUFFER = 64 * 1024
"""Bytes to be sent at which a transport pauses its producer, as in Twisted."""

_SEGMENT = 64 * 1024
"""Bytes that are delivered at once."""


@cache
def _policy() -> UdpPolicy:
    """One for all, as it is large."""
    return UdpPolicy(time.monotonic)


def context(clock: Clock, encoding: str = "utf-8", transport: str = "tcp", greeter: Greeter | None = None) -> Context:
    """What a listener gives its protocol, with time that stands still."""
    return Context(
        greeter=greeter or TextGreeter("Hello, {name}", encoding),
        encoding=encoding,
        transport=transport,
        ledger=Ledger(),
        admission=Admission(),
        policy=_policy(),
        sessions=None,
        deadline=DEADLINE,
        linger=2.0,
        reactor=clock,
    )


@implementer(ITCPTransport, IPushProducer)
class _Transport:
    """What a protocol of the service has: it buffers, pauses and resumes, and its close lingers."""

    def __init__(self, peer: MemoryPeer) -> None:
        self._peer = peer
        self.connected = True
        self.disconnecting = False
        self.producer: Any = None
        self.reading = True
        self.unsent = bytearray()
        self._paused = False
        self._when_closed: list[Any] = []

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"Data must be bytes, not {data!r}")
        if self.connected:
            self.unsent += data
            self._peer.sent()
            if self.producer is not None and len(self.unsent) > _BUFFER and not self._paused:
                self._paused = True
                self.producer.pauseProducing()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def flushed(self) -> None:
        """Everything is sent."""
        if self._paused and self.producer is not None:
            self._paused = False
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self._peer.lost(ConnectionAborted())

    def loseWriteConnection(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("there is a producer already")
        self.producer = producer
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = True
            self._peer.clock.callLater(0, self._peer.deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    def call_when_closed(self, call: Any) -> None:
        self._when_closed.append(call)

    def call_if_it_stays(self, call: Any) -> None:
        call()

    def closed(self) -> None:
        """The socket is closed."""
        for call in self._when_closed:
            call()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 49152)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8088)

    def getTcpNoDelay(self) -> bool:
        return False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There are no packets."""

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There are no packets."""


class MemoryPeer:
    """One connection to a protocol that ``factory`` builds. ``clock`` is the one of its context.

    ``heard`` is what this peer has read. With ``reads=False`` it reads nothing until `read`. ``closed`` says whether
    the connection was closed, ``reset`` whether that was a reset.
    """

    def __init__(self, factory: Any, clock: Clock, *, reads: bool = True) -> None:
        self.clock = clock
        self.heard = bytearray()
        self.closed = self.reset = False
        self.waiting = bytearray()
        self._reads = reads
        self._left = False
        self._in_callback = False
        self.protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 49152))
        self.transport: Any = _Transport(self)
        self._call(self.protocol.makeConnection, self.transport)

    @property
    def buffered(self) -> int:
        """How many bytes wait to be read by this peer, in the buffers of the transport."""
        return len(self.transport.unsent)

    @property
    def unread(self) -> int:
        """How many bytes the protocol has not read."""
        return len(self.waiting)

    def say(self, data: bytes) -> None:
        """Send; it is delivered as far as the protocol reads, and the reactor turns until nothing is due."""
        self.waiting += data
        self.deliver()
        self.turn()

    def deliver(self) -> None:
        """Deliver one segment of what was sent."""
        if self.transport.reading and self.transport.connected and not self.transport.disconnecting:
            if self.waiting:
                piece = bytes(self.waiting[:_SEGMENT])
                del self.waiting[:_SEGMENT]
                self._call(self.protocol.dataReceived, piece)
                if self.waiting:
                    self.clock.callLater(0, self.deliver)
            elif self._left:
                self._left = False
                self._end_of_input()

    def read(self) -> bytes:
        """Read all that comes, from now on; what was heard so far."""
        self._reads = True
        self.sent()
        self.turn()
        return bytes(self.heard)

    def leave(self) -> None:
        """Send a FIN behind what was sent."""
        self._left = True
        self.deliver()
        self.turn()

    def vanish(self) -> None:
        """Reset the connection."""
        self.lost(ConnectionLost())
        self.turn()

    def turn(self) -> None:
        """Turn the reactor until nothing is due."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
        self._finish()

    def sent(self) -> None:
        """The protocol has written."""
        if self._reads and not self._in_callback:
            self._finish()

    def lost(self, reason: Exception) -> None:
        """The connection is over."""
        if self.transport.connected:
            self.transport.connected = False
            self.closed, self.reset = True, not isinstance(reason, ConnectionDone)
            if self.reset:
                self.transport.unsent.clear()  # a reset destroys what is on its way
            if self.transport.producer is not None:
                self.transport.producer.stopProducing()
            self.protocol.connectionLost(Failure(reason))
            self.transport.closed()

    def _call(self, callback: Any, *arguments: Any) -> None:
        self._in_callback = True
        try:
            callback(*arguments)
        finally:
            self._in_callback = False
        self._finish()

    def _finish(self) -> None:
        """Let the peer read, then close if that was asked for."""
        while self._reads and self.transport.unsent:
            self.heard += self.transport.unsent
            self.transport.unsent.clear()
            self.transport.flushed()
        if self.transport.disconnecting and not self.transport.unsent:
            self.lost(ConnectionDone())

    def _end_of_input(self) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self._call(self.protocol.readConnectionLost)
        else:
            self.lost(ConnectionDone())
