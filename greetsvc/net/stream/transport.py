# mypy: allow-untyped-calls
# (Twisted's transports are mostly without types.)
"""Stream transports that act at once: for one accepted connection, TCP or UNIX.

They are Twisted's own server transports, so the Protocol contract, producers, half-close, abort and startTLS are
inherited. They differ in when things happen:

* What a protocol writes in a callback of the transport is sent when that callback returns, and what it writes
  elsewhere is sent now, if nothing is queued before it. Twisted sends in the next turn of the reactor.
* The reactor is told of the descriptor only when there is something to wait for. Twisted's transport registers it
  before the protocol is made; a protocol that greets and closes in ``connectionMade`` never needs that, and it is a
  good part of the cost.
* ``loseConnection`` in a callback takes effect when the callback returns, and the FIN goes out in the last segment of
  data. The protocol is told ``connectionLost`` then; the socket lingers until the peer has closed too
  (`greetsvc.net.linger.sweep`).

This module uses attributes of Twisted's transports that are not documented: tests/net/stream/test_private_names.py
lists them, and fails when a new Twisted lacks one.
"""

from __future__ import annotations

import socket
import typing
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from twisted.internet import abstract, tcp, unix
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.linger.sweep import ILingers, Lingerers
from greetsvc.net.linger.watched import WhenClosed
from greetsvc.net.stream.accepted import SEND, SEND_LAST, whole

__all__ = ["StreamTransport", "UnixStreamTransport"]

_log = Logger()
_DONE = Failure(CONNECTION_DONE)
_LITTLE = 16384
"""Bytes to be sent that pause no producer."""


class _Listener(typing.Protocol):
    """The part of `greetsvc.net.stream.listener.StreamPort`, which imports this module, that its transports use."""

    reactor: Any
    lingerers: Lingerers | None
    address_of: Callable[[Any], IAddress]

    def getHost(self) -> IAddress:
        """The address listened on."""
        ...


@implementer(ILingers)
class StreamTransport(tcp.Server):
    """The transport of one accepted TCP connection. `start` connects it to its protocol.

    While one of its callbacks runs (``_in_callback``), what the protocol asks for is only noted; `_finish_callback`
    does it when the callback has returned. So closing never re-enters the protocol.
    """

    server: _Listener  # type: ignore[assignment]
    reactor: Any
    _sendmsgQueue: Any = ()  # descriptors that wait to be sent, on UNIX sockets
    _made = False  # connectionMade has returned
    _wants_reading = True  # looked at after connectionMade; an explicit startReading there registers at once
    _wants_writing = False
    _call_if_it_stays: Callable[[], object] | None = None

    def __init__(self, sock: socket.SocketType, peer: IAddress, number: int, listener: _Listener) -> None:
        # Not super(): Twisted's initialisers register the descriptor and build texts that are rarely read.
        self.socket = sock  # type: ignore[assignment]  # a bare one; `getHandle` makes it whole
        self.reactor = listener.reactor
        self.server = listener
        self.sessionno = number
        self._peer = peer
        self._tempDataBuffer: list[bytes] = []
        # Read for every connection: found sooner in the instance than in the six classes above.
        self._in_callback = True
        # Whether the descriptor is fit for the reactor: non-blocking, and with a fileno().
        self._prepared = False
        self._aborting = self._peer_closed = self.TLS = False
        self._writeDisconnecting = self._writeDisconnected = False
        self._tempDataLen = self.disconnecting = self.disconnected = 0
        self.dataBuffer = b""
        self.producer = None
        self.producerPaused = False
        self._when_closed: WhenClosed = None

    def start(self, protocol: IProtocol) -> None:
        """Connect ``protocol``, then do what it asked for in ``connectionMade``. Raises nothing."""
        self.protocol = protocol
        self.connected = 1
        try:
            protocol.makeConnection(self)
            self._in_callback = False
            self._finish_callback()
            self._made = True
            if self.connected:
                if self.socket.fileno() < 0:
                    self._handed_over()
                elif self._wants_reading:
                    self.startReading()
                if self.connected and self._call_if_it_stays is not None:
                    self._call_if_it_stays()
            self._call_if_it_stays = None  # the protocol may hold the transport: no reference cycle is left
        except BaseException:  # noqa: BLE001 - as in Twisted: it ends this connection, not the listener
            failure = Failure()
            _log.failure("A protocol raised when its connection was made", failure)
            self._in_callback = False
            try:
                self.connectionLost(failure)
            except BaseException:  # noqa: BLE001
                _log.failure("A protocol raised when its connection was lost")

    # Called by the protocol

    def write(self, data: bytes) -> None:
        """Send ``data``: now, or after this callback, or after what is queued before it."""
        if self.TLS or type(data) is not bytes or not (self.producer is None or self._in_callback):
            super().write(data)
        elif not self.connected or self._writeDisconnected or self._aborting or not data:
            return
        elif self._in_callback:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            self._wants_writing = True
            if self.producer is not None and (self.dataBuffer or self._tempDataLen > _LITTLE):
                self._maybePauseProducer()
        elif self.dataBuffer or self._tempDataLen or self._sendmsgQueue:
            super().write(data)
        elif not self._send(data, SEND):
            self.startWriting()

    def writeSequence(self, iovec: Any) -> None:
        """Send the pieces as one."""
        if self.TLS or self.producer is not None:
            super().writeSequence(iovec)
        else:
            try:
                data = b"".join(iovec)
            except TypeError:
                raise TypeError("Data must be bytes") from None  # what `write` says, here and in Twisted
            self.write(data)

    def loseConnection(self) -> None:
        """Close when everything is written, lingering."""
        if self.TLS or not (self._in_callback or self._writeDisconnected):
            super().loseConnection()
        elif self.connected and not self.disconnecting:
            self.stopReading()
            self.disconnecting = 1
            if not self._in_callback:
                # The sending side is shut down already: nothing is left to wait for. Not in this call, as
                # connectionLost must not re-enter the protocol.
                self.reactor.callLater(0, self.connectionLost, _DONE)

    def call_when_closed(self, call: Callable[[], object]) -> None:
        """See `ILingers`."""
        if self.disconnected:
            call()
        else:
            self._when_closed = call if self._when_closed is None else partial(_both, self._when_closed, call)

    def call_if_it_stays(self, call: Callable[[], object]) -> None:
        """See `ILingers`."""
        if not self._made:
            self._call_if_it_stays = call
        elif self.connected:
            call()

    def getHost(self) -> Any:
        """The address that the peer connected to."""
        return self.server.address_of(self.socket.getsockname())

    def getPeer(self) -> Any:
        """The address of the peer."""
        return self._peer

    def getHandle(self) -> socket.socket:
        """The socket, non-blocking."""
        self._prepare()
        self.socket = whole(self.socket)
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        return self.socket

    @cached_property
    def logstr(self) -> str:  # type: ignore[override]  # Twisted writes it when it makes the transport
        """What `logPrefix` returns: the prefix of messages that are logged in callbacks."""
        return f"{self._getLogPrefix(self.protocol)},{self.sessionno},{getattr(self._peer, 'host', 'unix')}"

    def __repr__(self) -> str:
        name = type(getattr(self, "protocol", self)).__name__
        host: Any = self.server.getHost()
        return f"<{name} #{self.sessionno} on {getattr(host, 'port', None) or host.name}>"

    # Called by Twisted's own methods: the reactor is told as late as possible

    def startReading(self) -> None:
        """Wait for input."""
        self._prepare()
        super().startReading()

    def stopReading(self) -> None:
        """Stop waiting for input."""
        self._wants_reading = False
        if self._prepared:
            super().stopReading()

    def startWriting(self) -> None:
        """Wait for room in the socket's send buffer; in a callback, only note that."""
        if self._in_callback:
            self._wants_writing = True
        elif self.fileno() >= 0:  # the protocol may have closed the socket
            super().startWriting()

    def stopWriting(self) -> None:
        """Stop waiting for room in the send buffer."""
        self._wants_writing = False
        if self._prepared:
            super().stopWriting()

    def _prepare(self) -> None:
        if not self._prepared:
            self._prepared = True
            self.socket.setblocking(False)
            self.fileno = self.socket.fileno  # type: ignore[method-assign]

    def fileno(self) -> int:  # an attribute of the instance once the descriptor is prepared, as in Twisted
        """The descriptor, also in ``connectionMade``, where a protocol may pass it on; -1 when it is closed."""
        if self.disconnected or self.socket.fileno() < 0:
            return -1
        self._prepare()
        return self.socket.fileno()

    # Called by the reactor

    def doRead(self) -> Any:
        """Deliver what has arrived to the protocol, then do what it asked for."""
        self._in_callback = True
        try:
            why = super().doRead()
        finally:
            self._in_callback = False
        if why is None:
            self._finish_callback()
        return why

    def doWrite(self) -> Any:
        """Send what is queued. Without effect once closed: the reactor may hold an event that is older than that."""
        return None if self.disconnected else super().doWrite()

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer has sent its FIN."""
        self._peer_closed = True
        super().readConnectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the protocol; close the socket, or let it linger if it was this side that closed first."""
        if self.disconnected:
            return
        if self._prepared or self.producer is not None:
            # Not tcp.Connection's, which closes the socket at once.
            abstract.FileDescriptor.connectionLost(self, reason)
        self.disconnected = 1
        self.connected = 0
        sock, protocol, lingerers = self.socket, self.protocol, self.server.lingerers
        if lingerers is not None:
            if self.disconnecting and not self._peer_closed and reason.type is ConnectionDone:
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    lingerers = None
            else:
                lingerers = None
        if lingerers is None:
            # For an abort Twisted sets SO_LINGER to 0 first, so that the peer is reset.
            self._closeSocket(not reason.check(ConnectionAborted))
        del self.protocol, self.socket
        if self._prepared:
            del self.fileno
        try:
            protocol.connectionLost(reason)
        finally:
            if lingerers is not None:
                lingerers.add(sock, self._when_closed)
            elif self._when_closed is not None:
                self._when_closed()

    # The rest

    def _handed_over(self) -> None:
        """The protocol closed the socket in ``connectionMade``, after a duplicate went to ``adoptStreamConnection``.

        The connection goes on there. As in Twisted, this transport is over, and the protocol is not told.
        """
        self.connected = 0
        self.disconnected = 1
        del self.protocol
        if self._prepared:
            del self.fileno
        if self._when_closed is not None:
            self._when_closed()

    def _finish_callback(self) -> None:
        """Do what the protocol asked for in a callback: send, then close."""
        if self.disconnected or self._aborting or not (self._wants_writing or self.disconnecting):
            return
        self._wants_writing = False
        half_closing = self._writeDisconnecting and not self._writeDisconnected
        # A streaming producer that was not paused waits for nothing: what it wrote is sent like anything else.
        waits = self.producer is not None and (self.producerPaused or not self.streamingProducer)
        if waits or self.dataBuffer or self._sendmsgQueue or half_closing:
            self.startWriting()  # doWrite, Twisted's, knows what to do in these cases
            return
        pieces = self._tempDataBuffer
        if pieces:
            self._tempDataBuffer = []
            self._tempDataLen = 0
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if not self._send(data, SEND_LAST if self.disconnecting else SEND):
                self.startWriting()
                return
        if self.disconnecting:
            self.connectionLost(_DONE)

    def _send(self, data: bytes, flags: int) -> bool:
        """Send now; False if anything is left, which is then queued.

        A broken connection counts as nothing sent: the reactor finds out, after it has delivered unread input.
        """
        try:
            sent = self.socket.send(data, flags)
        except OSError:
            sent = 0
        if sent == len(data):
            return True
        # The queue as doWrite, Twisted's, keeps it: the bytes, and how many of them are sent.
        self.dataBuffer = data
        self.offset = sent
        return False


class UnixStreamTransport(StreamTransport, unix.Server):
    """The transport of one accepted UNIX stream connection; descriptors can be sent and received over it."""

    def __init__(self, sock: socket.SocketType, peer: IAddress, number: int, listener: _Listener) -> None:
        super().__init__(sock, peer, number, listener)
        self._sendmsgQueue = []


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    try:
        first()
    finally:
        second()
