# mypy: allow-untyped-calls
# (Twisted's transports are mostly without types.)
"""Stream transports that act at once: for one accepted connection, TCP or UNIX.

They are Twisted's own server transports, with its Protocol contract and with producers, half-close, abort and
startTLS inherited; what differs is when things happen:

* What a protocol writes in a callback of the connection is sent when that callback returns, and what it
  writes elsewhere at once, as long as nothing is queued before it.
* The reactor hears of the descriptor only when there is something to wait for. A protocol that greets and closes
  in ``connectionMade`` costs it nothing.
* ``loseConnection`` in a callback takes effect when the callback returns, and the FIN rides on the data. The protocol
  is let go then; the socket lingers until the peer has closed too (`greetsvc.net.linger.sweep`).
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from twisted.internet import abstract, unix
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.main import CONNECTION_DONE
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.linger.sweep import ILingers
from greetsvc.net.stream.batch import FIN, SEND, SEND_LAST
from greetsvc.net.stream.late import LateServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress, IProtocol

    from greetsvc.net.linger.drain import WhenClosed
    from greetsvc.net.stream.listener import StreamPort

__all__ = ["StreamTransport", "UnixStreamTransport"]

_log = Logger()
_DONE = Failure(CONNECTION_DONE)


@implementer(ILingers)
class StreamTransport(LateServer):
    """The transport of one accepted TCP connection. `start` introduces it to its protocol.

    It is *held* while a callback of its own runs: what the protocol asks for meanwhile is noted, and done when
    the callback has returned. So closing never re-enters the protocol.
    """

    server: StreamPort  # type: ignore[assignment]
    reactor: Any
    _sendmsgQueue: Any = ()  # descriptors to be sent, on UNIX
    _made = False
    _if_it_stays: Callable[[], object] | None = None

    def __init__(self, sock: socket.SocketType, peer: IAddress, number: int, port: StreamPort) -> None:
        # The initialisers above this one would register the descriptor and build texts that few ask for.
        self.socket = sock  # type: ignore[assignment]  # a bare one; `getHandle` makes it whole
        self.reactor = port.reactor
        self.server = port
        self.sessionno = number
        self._peer = peer
        self._tempDataBuffer: list[bytes] = []
        # What is looked at for every connection is found sooner here than in the classes.
        self._held = True
        self._known = self._aborting = self._peer_closed = self.TLS = False
        self._writeDisconnecting = self._writeDisconnected = False
        self._tempDataLen = self.disconnecting = self.disconnected = 0
        self.dataBuffer = b""
        self.producer = None
        self._when_closed: WhenClosed = None

    def start(self, protocol: IProtocol) -> None:
        """Connect ``protocol``, then do what it asked for in ``connectionMade``. Raises nothing."""
        self.protocol = protocol
        self.connected = 1
        try:
            protocol.makeConnection(self)
            self._held = False
            self._settle()
            self._made = True
            if self.connected:
                if self.socket.fileno() < 0:
                    self._handed_over()
                elif self._wants_reading:
                    self.startReading()
                if self.connected and self._if_it_stays is not None:
                    self._if_it_stays()
            self._if_it_stays = None
        except BaseException:  # noqa: BLE001 - as in Twisted: it ends this connection, not the listener
            failure = Failure()
            _log.failure("A protocol failed when its connection was made", failure)
            self._held = False
            try:
                self.connectionLost(failure)
            except BaseException:  # noqa: BLE001
                _log.failure("A protocol failed when its connection was lost")

    # What the protocol asks for

    def write(self, data: bytes) -> None:
        """Send ``data``: now, or after this callback, or after what is queued before it."""
        if self.TLS or self.producer is not None or type(data) is not bytes:
            super().write(data)
        elif not self.connected or self._writeDisconnected or self._aborting or not data:
            return
        elif self._held:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            self._wants_writing = True
        elif self.dataBuffer or self._tempDataLen or self._sendmsgQueue:
            super().write(data)
        elif not self._send(data, SEND):
            self.startWriting()

    def writeSequence(self, iovec: Any) -> None:
        """Send the pieces, in one."""
        if self.TLS or self.producer is not None:
            super().writeSequence(iovec)
        else:
            try:
                data = b"".join(iovec)
            except TypeError:
                raise TypeError("Data must be bytes") from None  # what `write` says, here and in Twisted
            self.write(data)

    def loseConnection(self) -> None:
        """Close, lingering, when everything is written."""
        if self.TLS or not (self._held or self._writeDisconnected):
            super().loseConnection()
        elif self.connected and not self.disconnecting:
            self.stopReading()
            self.disconnecting = 1
            if not self._held:
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
            self._if_it_stays = call
        elif self.connected:
            call()

    # What the reactor calls

    def doRead(self) -> Any:
        """Hand what has arrived to the protocol, then do what it asked for."""
        self._held = True
        try:
            why = super().doRead()
        finally:
            self._held = False
        if why is None:
            self._settle()
        return why

    def doWrite(self) -> Any:
        """Send what is queued, unless the event is older than the close."""
        return None if self.disconnected else super().doWrite()

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer has sent its FIN."""
        self._peer_closed = True
        super().readConnectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Let go of the protocol; the socket is closed, or lingers if it was the protocol that closed."""
        if self.disconnected:
            return
        if self._known or self.producer is not None:
            abstract.FileDescriptor.connectionLost(self, reason)
        self.disconnected = 1
        self.connected = 0
        sock, protocol, lingerers = self.socket, self.protocol, self.server.lingerers
        if lingerers is not None:
            if self.disconnecting and not self._peer_closed and reason.type is ConnectionDone:
                try:
                    sock.shutdown(FIN)
                except OSError:
                    lingerers = None
            else:
                lingerers = None
        if lingerers is None:
            self._closeSocket(not reason.check(ConnectionAborted))
        del self.protocol, self.socket
        if self._known:
            del self.fileno
        try:
            protocol.connectionLost(reason)
        finally:
            if lingerers is not None:
                lingerers.add(sock, self._when_closed)
            elif self._when_closed is not None:
                self._when_closed()

    # How it is done

    def _handed_over(self) -> None:
        """The protocol closed the socket in ``connectionMade``, after a duplicate went to ``adoptStreamConnection``.

        The connection goes on there. As in Twisted, whose transport the protocol has taken from the reactor before,
        this one is over, and the protocol hears no more of it.
        """
        self.connected = 0
        self.disconnected = 1
        del self.protocol
        if self._known:
            del self.fileno
        if self._when_closed is not None:
            self._when_closed()

    def _settle(self) -> None:
        """Do what the protocol asked for while the transport was held."""
        if self.disconnected or self._aborting or not (self._wants_writing or self.disconnecting):
            return
        self._wants_writing = False
        half_closing = self._writeDisconnecting and not self._writeDisconnected
        if self.producer is not None or self.dataBuffer or self._sendmsgQueue or half_closing:
            self.startWriting()
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
        """Send now; False if anything is left, which then is queued.

        That is so too when the connection is broken: the reactor finds out, after it has delivered what is
        still to be read.
        """
        try:
            sent = self.socket.send(data, flags)
        except OSError:
            sent = 0
        if sent == len(data):
            return True
        self.dataBuffer = data
        self.offset = sent
        return False

    # What is asked of it

    def getHost(self) -> Any:
        """The address the peer connected to."""
        return self.server.address_of(self.socket.getsockname())

    def getPeer(self) -> Any:
        """The address of the peer."""
        return self._peer

    @cached_property
    def logstr(self) -> str:  # type: ignore[override]  # Twisted writes it when it makes the transport
        """What `logPrefix` gives: put before messages that are logged in callbacks."""
        return f"{self._getLogPrefix(self.protocol)},{self.sessionno},{getattr(self._peer, 'host', 'unix')}"

    def __repr__(self) -> str:
        name = type(getattr(self, "protocol", self)).__name__
        host: Any = self.server.getHost()
        return f"<{name} #{self.sessionno} on {getattr(host, 'port', None) or host.name}>"


class UnixStreamTransport(StreamTransport, unix.Server):
    """The transport of one accepted UNIX stream connection; descriptors can be sent and received over it."""

    def __init__(self, sock: socket.SocketType, peer: IAddress, number: int, port: StreamPort) -> None:
        super().__init__(sock, peer, number, port)
        self._sendmsgQueue = []


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    try:
        first()
    finally:
        second()
