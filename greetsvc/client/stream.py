"""One probe over a stream: connect, agree on TLS where it is asked for, read until the far end closes."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.progress import Progress
from greetsvc.client.resolve import Remote
from greetsvc.client.tls import ClientTls, tls_words
from greetsvc.client.verdict import Closed, GreetFailed
from greetsvc.visit import Address

__all__ = ["Heard", "StreamProbe", "StreamReactor", "ask_stream"]


_RESETS = frozenset([errno.ECONNRESET, errno.EPIPE])
"""What a reset makes of a connection that stood before we looked; one that is refused gives another errno."""


class StreamReactor(IReactorTime, IReactorTCP, IReactorUNIX):
    """What asking over a stream needs of a reactor."""


@define
class Heard:
    """What one stream said until it ended, and how it ended. Pure: it decides, `StreamProbe` does."""

    progress: Progress
    limit: int
    tls: bool = False
    data: bytearray = field(factory=bytearray)
    timed_out: bool = False
    refused: str = ""
    """Why we did not accept the far end's certificate."""

    def connected(self) -> None:
        """The connection stands."""
        self.progress.leave()
        self.progress.enter("tls" if self.tls else "greet")

    def agreed(self) -> None:
        """TLS stands."""
        self.progress.leave()
        self.progress.enter("greet")

    def take(self, data: bytes) -> bool:
        """Keep what came; False when it is more than a greeting may be."""
        self.progress.first_byte()
        self.data += data[: self.limit + 1 - len(self.data)]
        return len(self.data) <= self.limit

    def not_connected(self, error: Exception) -> GreetFailed:
        """The verdict when there was no connection."""
        if self.timed_out:
            return self.progress.failed(
                errno.ETIMEDOUT, f"no connection within {self.progress.timeout:g} s", "timeout"
            )
        number = error.osError if isinstance(error, ConnectError) and isinstance(error.osError, int) else errno.EIO
        if number in _RESETS:
            self.connected()
            return self.progress.failed(errno.ECONNRESET, os.strerror(errno.ECONNRESET), "reset")
        return self.progress.failed(number, os.strerror(number))

    def ended(self, error: BaseException, stream_error: BaseException) -> Closed:
        """How the greeting that came has ended, or raise that there was none.

        ``error`` is the reason that the outermost layer gives, ``stream_error`` the bare stream's below TLS.

        :raises GreetFailed: when there is no greeting.
        """
        fail = self.progress.failed
        if len(self.data) > self.limit:
            raise fail(errno.EMSGSIZE, f"the greeting is longer than {self.limit} bytes")
        closed: Closed = "fin"
        if self.timed_out:
            closed = "timeout"
        elif isinstance(stream_error, ConnectionLost):
            closed = "reset"
        if self.data:
            self._remark(error, closed)
            return closed
        if self.timed_out:
            raise fail(errno.ETIMEDOUT, self._silence(), closed)
        self._blame_tls(error, closed)
        if closed == "reset":
            raise fail(errno.ECONNRESET, os.strerror(errno.ECONNRESET), closed)
        raise fail(errno.ENODATA, "the connection was closed without a word", closed)

    def _remark(self, error: BaseException, closed: Closed) -> None:
        progress = self.progress
        if self.tls and closed == "fin" and isinstance(error, ConnectionLost):
            progress.note("TLS ended without close_notify: the greeting may be cut")
        elif self.tls and _is_tls(error):
            progress.note(f"TLS failed after the greeting: {tls_words(error)}")

    def _silence(self) -> str:
        waited = f"within {self.progress.timeout:g} s"
        return f"TLS was not agreed {waited}" if self.progress.phase == "tls" else f"no greeting {waited}"

    def _blame_tls(self, error: BaseException, closed: Closed) -> None:
        """Raise when TLS is the reason: while it is agreed, or (TLS 1.3 refuses a client only then) just after."""
        if self.refused:
            why = self.refused
        elif _is_tls(error):
            why = tls_words(error)
        elif self.progress.phase == "tls" and closed == "fin":
            why = "the far end closed while TLS was being agreed"
        else:
            return
        self.progress.phase = "tls"
        raise self.progress.failed(errno.EPROTO, why, closed)


def _is_tls(error: BaseException) -> bool:
    return not isinstance(error, ConnectionDone | ConnectionLost | ConnectionAborted)


@implementer(IHandshakeListener)
class StreamProbe(Protocol):
    """Reads one greeting and hands the verdict over when the connection is gone."""

    def __init__(self, heard: Heard, verdict: Deferred[Closed]) -> None:
        self.heard = heard
        self.verdict = verdict
        self.stream_error: BaseException | None = None

    def connectionMade(self) -> None:
        """Connected; under TLS the handshake begins only now."""
        self.heard.connected()
        here = _address(cast("ITCPTransport", self.transport).getHost())
        self.heard.progress.say("*", f"connected, from {_words(here)}" if here else "connected")

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
        """Leave politely; under TLS that may take for ever, so there it is at once."""
        if self.heard.tls:
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
    """Tells how the stream itself ended: stock TLS makes a FIN without close_notify look like a reset."""

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
        self._timer: IDelayedCall = reactor.callLater(heard.progress.remaining(), self._too_late)
        self.verdict.addBoth(self._stop_timer)

    def buildProtocol(self, addr: IAddress | None) -> StreamProbe:
        self._probe = StreamProbe(self.heard, self.verdict)
        return self._probe

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._cancelled:
            self.verdict.errback(self.heard.not_connected(cast("Exception", reason.value)))

    def _cancel(self) -> None:
        self._cancelled = True
        self._give_up()

    def _too_late(self) -> None:
        self.heard.timed_out = True
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
    closed = await factory.verdict
    return bytes(heard.data), closed


def _address(host: IAddress) -> Address | None:
    return Address(host.host, host.port) if isinstance(host, IPv4Address | IPv6Address) else None


def _words(address: Address) -> str:
    return f"{address.host} port {address.port}"
