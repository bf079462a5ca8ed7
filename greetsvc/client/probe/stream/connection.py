"""One probe over a stream: connect, do the TLS handshake for a tls: target, read until the server closes."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from attrs import evolve
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

from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.sockets import prepare, read_stream
from greetsvc.client.probe.stream.rules import FULL_RETRY
from greetsvc.client.probe.stream.state import StreamState
from greetsvc.client.probe.system import read_icmp
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import GreetFailed
from greetsvc.client.tls import ClientTls
from greetsvc.client.words import Closed
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.tcp_info import TcpInfo, read_tcp_info
from greetsvc.visit import Address

__all__ = ["StreamProbe", "StreamReactor", "probe_stream", "run_stream"]


class StreamReactor(IReactorTime, IReactorTCP, IReactorUNIX):
    """What a stream probe needs of a reactor."""


@implementer(IHandshakeListener)
class StreamProbe(Protocol):
    """Reads one greeting, and gives the result when the connection is gone."""

    def __init__(self, state: StreamState, result: Deferred[Closed], factory: _ProbeFactory) -> None:
        self.state = state
        self.result = result
        self.factory = factory
        self.stream_error: BaseException | None = None
        self.look: Callable[[], None] = lambda: None
        """Has the state of the connection read when the first byte came."""

    def connectionMade(self) -> None:
        """Connected; under TLS the handshake begins only now."""
        transport = cast("ITCPTransport", self.transport)
        here = _address(transport.getHost())
        if here is not None and here == _address(transport.getPeer()):
            # A SYN that comes back to its own port makes TCP connect to itself (simultaneous open, RFC 9293 3.5).
            # It happens on loopback where nothing listens and the source port is the target's.
            self.state.self_connected = True
            self.abort()
            return
        self.state.connected()
        words = ["connected", *([f"from {_words(here)}"] if here else [])]
        sent = self.state.timeline.sent
        if sent is not None and sent.tcp is not None:
            words += [f"round trip {sent.tcp.rtt_us / 1000:.3f} ms", f"MSS {sent.tcp.mss}"]
        self.state.timeline.trace("*", ", ".join(words))
        if not self.state.tls:
            self.send_proxy_header(self.transport)

    def send_proxy_header(self, transport: ITransport | None) -> None:
        """Send the PROXY header, if one is set, before anything else."""
        timeline = self.state.timeline
        if timeline.options.proxy is not None and timeline.peer is not None:
            header = timeline.options.proxy.header(timeline.peer)
            timeline.trace(">", f"a PROXY header ({len(header)} bytes)")
            cast("ITransport", transport).write(header)

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done, and the certificate accepted."""
        self.state.handshake_done()
        session = cast("TLSMemoryBIOProtocol", self.transport).getHandle()
        self.state.timeline.trace("*", f"{session.get_protocol_version_name()}, {session.get_cipher_name()}")

    def dataReceived(self, data: bytes) -> None:
        """A piece of the greeting, cut anywhere."""
        if not self.state.data:
            self.look()
        if not self.state.received(data):
            self.abort()

    def abort(self) -> None:
        """Close with a reset."""
        cast("ITCPTransport", self.transport).abortConnection()

    def close(self) -> None:
        """Close with a FIN where that is safe.

        A TLS close may wait for ever for the server's close_notify. With a fixed source port the side that closes
        first keeps the port in TIME_WAIT for a minute, so that the next probe could not use it.
        """
        if self.state.tls or self.state.timeline.options.source_port is not None:
            self.abort()
        else:
            cast("ITCPTransport", self.transport).loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: give the result."""
        error = cast("BaseException", reason.value)
        if self.result.called:
            return
        try:
            closed = self.state.ended(error, self.stream_error or error)
        except GreetFailed as failed:
            self.result.errback(failed)
        else:
            self.result.callback(closed)


class _TlsLayer(TLSMemoryBIOProtocol):
    """Keeps how the stream below TLS ended, and sends the PROXY header below TLS, before the handshake.

    Stock TLS reports a FIN without close_notify as ConnectionLost, as it does a reset. Many servers close like that,
    so the two must be told apart by the reason that this layer gets from the stream.
    """

    def makeConnection(self, transport: ITransport) -> None:
        cast("StreamProbe", self.wrappedProtocol).send_proxy_header(transport)
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        cast("StreamProbe", self.wrappedProtocol).stream_error = reason.value
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _ProbeFactory(ClientFactory[StreamProbe]):
    """Makes the one protocol, and owns the time-out."""

    noisy = False

    def __init__(self, state: StreamState, reactor: IReactorTime, protocol: type[StreamProbe] = StreamProbe) -> None:
        self.state = state
        self.reactor = reactor
        self._protocol = protocol
        self.result: Deferred[Closed] = Deferred(lambda _: self._cancel())
        self._cancelled = False
        self.connector: IConnector | None = None
        self._probe: StreamProbe | None = None
        self._retry: IDelayedCall | None = None
        self._errno = 0
        self._icmp: Icmp | None = None
        self._timer: IDelayedCall = reactor.callLater(state.timeline.remaining(), self._time_out)
        self.result.addBoth(self._stop_timer)

    def prepare(self) -> None:
        """Set up the socket. Twisted has made it already, and calls ``connect`` only in the reactor's next turn."""
        timeline, sock = self.state.timeline, self._socket()
        if sock is None:
            return
        self._keep_errno(cast("Any", self.connector).transport, sock)
        try:
            prepare(sock, timeline.options)
            if error_queue.AVAILABLE:
                error_queue.turn_on(sock)
        except OSError as error:
            self._cancel()
            number = error.errno or errno.EIO
            words = f"source port {timeline.options.source_port}: {os.strerror(number)}"
            self.result.errback(timeline.failed(number, words))

    def _keep_errno(self, transport: Any, sock: socket.socket) -> None:
        """Read why a connection failed before Twisted forgets it.

        Some ICMP errors (host prohibited) leave a connecting socket with an error and nothing to read. The epoll
        reactor takes that for the end of a connection, and reports "closed cleanly" with no errno.
        """
        lost, not_connected = transport.connectionLost, transport.failIfNotConnected

        def lost_with_errno(reason: Failure) -> None:
            if not transport.connected:
                # Reading SO_ERROR also clears it, and `lost` closes the socket: this is the only chance.
                self._errno = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._read_icmp(sock)
            lost(reason)

        def not_connected_with_icmp(error: Exception) -> None:
            if isinstance(error, ConnectError):
                self._read_icmp(sock)
            not_connected(error)

        transport.connectionLost, transport.failIfNotConnected = lost_with_errno, not_connected_with_icmp

    def _read_icmp(self, sock: socket.socket) -> None:
        if self._icmp is None and self.state.timeline.peer is not None and sock.fileno() >= 0:
            number, self._icmp = read_icmp(sock, self.state.timeline.peer)
            self._errno = self._errno or number

    def allow(self, seconds: float) -> None:
        """Let the time-out be so many seconds from now."""
        self._timer.reset(seconds)

    def tcp_info(self) -> TcpInfo | None:
        """What the kernel knows of the connection now."""
        sock = self._socket()
        return None if sock is None else read_tcp_info(sock)

    def _socket(self) -> socket.socket | None:
        """The socket of an IP connection."""
        found = getattr(getattr(self.connector, "transport", None), "socket", None)
        return found if isinstance(found, socket.socket) and found.family != socket.AF_UNIX else None

    def _read_socket(self) -> None:
        """Keep what our own side knows of the connection."""
        timeline, sock = self.state.timeline, self._socket()
        if sock is not None and timeline.peer is not None:
            proxy = timeline.options.proxy
            sent = read_stream(sock, timeline.peer, proxy.source if proxy else None)
            # Read after the time stamp: this process may have waited for the processor between the two.
            timeline.sent = evolve(sent, since=timeline.in_phase())

    def _look_again(self) -> None:
        """Keep how the connection is now: when the first byte came, or when the time was over."""
        timeline, sock = self.state.timeline, self._socket()
        if sock is not None and timeline.sent is not None:
            timeline.sent = evolve(timeline.sent, later=read_tcp_info(sock))

    def buildProtocol(self, addr: IAddress | None) -> StreamProbe:
        self._read_socket()
        sock = self._socket()
        if sock is not None and error_queue.AVAILABLE:
            error_queue.turn_off(sock)
        self._probe = self._protocol(self.state, self.result, self)
        self._probe.look = self._look_again
        return self._probe

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if self._cancelled:
            return
        if self.state.timeline.target.local and not getattr(reason.value, "osError", None):
            # EAGAIN: the queue is full. Twisted waits as for an IP connection, and then knows nothing.
            self._retry = self.reactor.callLater(FULL_RETRY, connector.connect)
        else:
            error = ConnectError(self._errno) if self._errno else cast("Exception", reason.value)
            self.result.errback(self.state.not_connected(error, self._icmp))

    def _cancel(self) -> None:
        self._cancelled = True
        self._give_up()

    def _time_out(self) -> None:
        self.state.timed_out = True
        if self._probe is None:
            self._read_socket()  # how many SYNs were sent is the best hint at why there is no connection
        else:
            self._look_again()  # and whether something is missing, at why there is no greeting
        self._give_up()

    def _give_up(self) -> None:
        if self._probe is not None:
            self._probe.close()
        elif self._retry is not None and self._retry.active():
            self._retry.cancel()
            if not self._cancelled:
                self.result.errback(self.state.not_connected(ConnectError(errno.EAGAIN)))
        elif self.connector is not None:
            self.connector.stopConnecting()

    def _stop_timer(self, result: Closed) -> Closed:
        if self._timer.active():
            self._timer.cancel()
        return result


async def probe_stream(
    timeline: Timeline, remote: SocketAddress | str, tls: ClientTls | None, reactor: StreamReactor
) -> tuple[bytes, Closed]:
    """Connect to an address, or to the path of a UNIX socket, and read the greeting.

    :raises GreetFailed: when there is none.
    """
    state = StreamState(timeline, tls=tls is not None)
    closed = await run_stream(state, remote, tls, reactor)
    return bytes(state.data), closed


async def run_stream(
    state: StreamState,
    remote: SocketAddress | str,
    tls: ClientTls | None,
    reactor: StreamReactor,
    protocol: type[StreamProbe] = StreamProbe,
) -> Closed:
    """Connect, and have a ``protocol`` of ours carry out what ``state`` decides; how the connection ended.

    :raises GreetFailed: as `StreamState.ended` does.
    """
    timeline = state.timeline
    factory = _ProbeFactory(state, reactor, protocol)
    outer: Factory[Any] = factory
    if tls is not None:

        def refuse(why: str) -> None:
            state.certificate_error = why

        outer = TLSMemoryBIOFactory(tls.creator(timeline.target.host, refuse), True, factory)
        outer.protocol = _TlsLayer
        outer.noisy = False
    timeline.enter("connect")
    # No time-out of Twisted's: that of the factory covers the greeting as well as connecting.
    if isinstance(remote, str):
        timeline.peer = Address(remote, 0)
        timeline.trace("*", f"connecting to {remote}")
        factory.connector = reactor.connectUNIX(remote, outer, timeout=None)  # type: ignore[arg-type]
    else:
        timeline.peer = remote.address
        timeline.trace("*", f"connecting to {_words(timeline.peer)}")
        host, port = timeline.peer
        factory.connector = reactor.connectTCP(host, port, outer, timeout=None)  # type: ignore[arg-type]
        factory.prepare()
    return await factory.result


def _address(host: IAddress) -> Address | None:
    return Address(host.host, host.port) if isinstance(host, IPv4Address | IPv6Address) else None


def _words(address: Address) -> str:
    return f"{address.host} port {address.port}"
