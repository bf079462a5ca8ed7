"""One probe over a stream: connect, agree on TLS where it is asked for, read until the far end closes."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.probe.heard import Heard
from greetsvc.client.probe.resolve import Remote
from greetsvc.client.probe.timeline import Progress
from greetsvc.client.result import Closed, GreetFailed
from greetsvc.client.sent import read_stream
from greetsvc.client.tls import ClientTls
from greetsvc.visit import Address

__all__ = ["StreamProbe", "StreamReactor", "ask_stream"]


class StreamReactor(IReactorTime, IReactorTCP, IReactorUNIX):
    """What asking over a stream needs of a reactor."""


@implementer(IHandshakeListener)
class StreamProbe(Protocol):
    """Reads one greeting and hands the verdict over when the connection is gone."""

    def __init__(self, heard: Heard, verdict: Deferred[Closed]) -> None:
        self.heard = heard
        self.verdict = verdict
        self.stream_error: BaseException | None = None

    def connectionMade(self) -> None:
        """Connected; under TLS the handshake begins only now."""
        transport = cast("ITCPTransport", self.transport)
        here = _address(transport.getHost())
        if here is not None and here == _address(transport.getPeer()):
            # Both ends began at once, from the same host and port (RFC 9293 3.5): there is no other end.
            self.heard.met_itself = True
            self.drop()
            return
        self.heard.connected()
        words = ["connected", *([f"from {_words(here)}"] if here else [])]
        sent = self.heard.progress.sent
        if sent is not None and sent.tcp is not None:
            words += [f"round trip {sent.tcp.rtt_us / 1000:.3f} ms", f"MSS {sent.tcp.mss}"]
        self.heard.progress.say("*", ", ".join(words))
        if not self.heard.tls:
            self.introduce(self.transport)

    def introduce(self, transport: ITransport | None) -> None:
        """Send the PROXY header, where there is to be one, before anything else."""
        progress = self.heard.progress
        header = progress.outgoing.header(progress.peer)
        if header:
            progress.say(">", f"a PROXY header ({len(header)} bytes)")
            cast("ITransport", transport).write(header)

    def handshakeCompleted(self) -> None:
        """TLS is agreed, and the certificate accepted."""
        self.heard.agreed()
        session = cast("TLSMemoryBIOProtocol", self.transport).getHandle()
        self.heard.progress.say("*", f"{session.get_protocol_version_name()}, {session.get_cipher_name()}")

    def dataReceived(self, data: bytes) -> None:
        """A piece of the greeting, cut anywhere."""
        if not self.heard.take(data):
            self.drop()

    def drop(self) -> None:
        """Leave at once."""
        cast("ITCPTransport", self.transport).abortConnection()

    def leave(self) -> None:
        """Leave politely; at once under TLS, where that may take for ever, and from a port that is wanted again."""
        if self.heard.tls or self.heard.progress.outgoing.source_port is not None:
            self.drop()
        else:
            cast("ITCPTransport", self.transport).loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: judge."""
        error = cast("BaseException", reason.value)
        if self.verdict.called:
            return
        try:
            closed = self.heard.ended(error, self.stream_error or error)
        except GreetFailed as failed:
            self.verdict.errback(failed)
        else:
            self.verdict.callback(closed)


class _TlsLayer(TLSMemoryBIOProtocol):
    """Tells how the stream itself ended: stock TLS makes a FIN without close_notify look like a reset.

    The PROXY header goes below TLS, and before it.
    """

    def makeConnection(self, transport: ITransport) -> None:
        cast("StreamProbe", self.wrappedProtocol).introduce(transport)
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cast("StreamProbe", self.wrappedProtocol).stream_error = reason.value
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _ProbeFactory(ClientFactory[StreamProbe]):
    """Makes the one protocol, and owns the time-out."""

    noisy = False

    def __init__(self, heard: Heard, reactor: IReactorTime) -> None:
        self.heard = heard
        self.verdict: Deferred[Closed] = Deferred(lambda _: self._cancel())
        self._cancelled = False
        self.connector: IConnector | None = None
        self._probe: StreamProbe | None = None
        self._errno = 0
        self._timer: IDelayedCall = reactor.callLater(heard.progress.remaining(), self._too_late)
        self.verdict.addBoth(self._stop_timer)

    def prepare(self) -> None:
        """Set up the socket, which connects in the reactor's next turn only."""
        progress, sock = self.heard.progress, self._socket()
        if sock is None:
            return
        self._keep_errno(cast("Any", self.connector).transport, sock)
        try:
            progress.outgoing.prepare(sock)
        except OSError as error:
            self._cancel()
            number = error.errno or errno.EIO
            words = f"source port {progress.outgoing.source_port}: {os.strerror(number)}"
            self.verdict.errback(progress.failed(number, words))

    def _keep_errno(self, transport: Any, sock: socket.socket) -> None:
        """Read why a connection failed before Twisted forgets it.

        Some ICMP errors (host prohibited) leave a connecting socket with an error and nothing to read. The epoll
        reactor takes that for the end of a connection, and reports "closed cleanly" with no errno.
        """
        lost = transport.connectionLost

        def lost_with_errno(reason: Failure) -> None:
            if not transport.connected:
                self._errno = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            lost(reason)

        transport.connectionLost = lost_with_errno

    def _socket(self) -> socket.socket | None:
        """Our end, when it is one that leaves this machine."""
        found = getattr(getattr(self.connector, "transport", None), "socket", None)
        return found if isinstance(found, socket.socket) and found.family != socket.AF_UNIX else None

    def _look(self) -> None:
        """Keep what our own side knows."""
        progress, sock = self.heard.progress, self._socket()
        if sock is not None and progress.peer is not None:
            claim = progress.outgoing.claim
            progress.sent = read_stream(sock, progress.peer, claim.source if claim else None)

    def buildProtocol(self, addr: IAddress | None) -> StreamProbe:
        self._look()
        self._probe = StreamProbe(self.heard, self.verdict)
        return self._probe

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._cancelled:
            error = ConnectError(self._errno) if self._errno else cast("Exception", reason.value)
            self.verdict.errback(self.heard.not_connected(error))

    def _cancel(self) -> None:
        self._cancelled = True
        self._give_up()

    def _too_late(self) -> None:
        self.heard.timed_out = True
        if self._probe is None:
            self._look()
        self._give_up()

    def _give_up(self) -> None:
        if self._probe is not None:
            self._probe.leave()
        elif self.connector is not None:
            self.connector.stopConnecting()

    def _stop_timer(self, result: Closed) -> Closed:
        if self._timer.active():
            self._timer.cancel()
        return result


async def ask_stream(
    progress: Progress, remote: Remote | str, tls: ClientTls | None, limit: int, reactor: StreamReactor
) -> tuple[bytes, Closed]:
    """Connect to an address, or to the path of a UNIX socket, and read the greeting.

    :raises GreetFailed: when there is none.
    """
    heard = Heard(progress, limit, tls=tls is not None)
    factory = _ProbeFactory(heard, reactor)
    outer: Factory[Any] = factory
    if tls is not None:

        def refuse(why: str) -> None:
            heard.refused = why

        outer = TLSMemoryBIOFactory(tls.creator(progress.target.host, refuse), True, factory)
        outer.protocol = _TlsLayer
        outer.noisy = False
    progress.enter("connect")
    if isinstance(remote, str):
        progress.peer = Address(remote, 0)
        progress.say("*", f"connecting to {remote}")
        factory.connector = reactor.connectUNIX(remote, outer, timeout=None)  # type: ignore[arg-type]
    else:
        progress.peer = remote.address
        progress.say("*", f"connecting to {_words(progress.peer)}")
        factory.connector = reactor.connectTCP(progress.peer.host, progress.peer.port, outer, timeout=None)  # type: ignore[arg-type]
        factory.prepare()
    closed = await factory.verdict
    return bytes(heard.data), closed


def _address(host: IAddress) -> Address | None:
    return Address(host.host, host.port) if isinstance(host, IPv4Address | IPv6Address) else None


def _words(address: Address) -> str:
    return f"{address.host} port {address.port}"
