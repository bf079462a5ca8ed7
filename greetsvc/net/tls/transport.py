# mypy: allow-untyped-calls
# (Twisted's TLS transport is mostly without types.)
"""The server's side of TLS connections: Twisted's transport, in bounds that strangers cannot move.

It differs from Twisted's in this:

* OpenSSL is asked for a connection only when a whole ClientHello is there, and what a peer may send before the
  handshake is done is bounded.
* Whatever ends TLS before its time is reported by reason, and raises nothing.
* After our close_notify, what arrives is not decrypted, where the transport below lingers.

This module uses attributes of Twisted's transport that are not documented: tests/net/tls/test_transport.py lists
them, and fails when a new Twisted lacks one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from OpenSSL import SSL
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from greetsvc.net.tls.connection import CLOSED_EARLY
from greetsvc.net.tls.hello import LONGEST, HelloBuffer, HelloTooLong

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import (
        IAddress,
        IOpenSSLServerConnectionCreator,
        IProtocolFactory,
        IReactorTime,
    )

__all__ = ["TlsFactory", "TlsFailure", "TlsTransport"]

TlsFailure: TypeAlias = Literal[
    "tls-alert",
    "tls-certificate",
    "tls-closed",
    "tls-handshake",
    "tls-hello-size",
    "tls-record",
    "tls-timeout",
]
"""Why TLS failed: a fixed set, so that failures can be counted.

During the handshake:

* ``tls-alert``: the peer refused with an alert.
* ``tls-certificate``: the client's certificate is missing or not accepted.
* ``tls-closed``: the peer sent something and then closed.
* ``tls-handshake``: anything else, such as bytes that are not TLS.
* ``tls-hello-size``: the peer sent more than 16 KiB, or said that it would.
* ``tls-timeout``: the connection was aborted, as a deadline does.

After it:

* ``tls-record``: an alert, or something that cannot be decrypted.
"""


class TlsTransport(BufferingTLSTransport):
    """The TLS transport of one connection."""

    factory: TlsFactory
    _tlsConnection: Any
    _lostTLSConnection: bool
    _handshakeDone: bool
    _aborted: bool
    _reported = False
    _received = 0

    def __init__(self, factory: TlsFactory, wrappedProtocol: Any, _connectWrapped: bool = True) -> None:
        super().__init__(factory, wrappedProtocol, _connectWrapped)
        self._hello = HelloBuffer()

    # Called by the transport below

    def dataReceived(self, data: bytes) -> None:
        """Decrypt what arrives; before the handshake is done, no more than the bound."""
        if not self._handshakeDone and not self._ended:
            first = data[: LONGEST - self._received]
            data = data[len(first) :]
            self._received += len(first)
            if first:  # OpenSSL takes no empty bytes
                self._shake_hands(first)
            if data and not self._handshakeDone and not self._ended:
                self._refuse("tls-hello-size")
        if data and not self._ended:
            super().dataReceived(data)

    @property
    def _ended(self) -> bool:
        return self._aborted or self._lostTLSConnection

    def _shake_hands(self, data: bytes) -> None:
        if self._tlsConnection is None:
            try:
                data = self._hello.feed(data)
            except HelloTooLong:
                self._refuse("tls-hello-size")
                return
            if not data:
                return
            self._hello = HelloBuffer()
            self._tlsConnection = self.factory.connection_for(self)
        super().dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection below is lost."""
        if self._tlsConnection is None:
            self._lostTLSConnection = True  # nothing is left to be read from OpenSSL
        if self._received and not self._handshakeDone:
            self._report("tls-closed")
        super().connectionLost(reason)

    # Called by the protocol

    def abortConnection(self) -> None:
        """Reset the connection."""
        if not self._handshakeDone and self.connected:
            self._report("tls-timeout")
        super().abortConnection()

    # Called by Twisted's own methods

    def _checkHandshakeStatus(self) -> None:
        if self._tlsConnection is not None:
            super()._checkHandshakeStatus()

    def _flushSendBIO(self) -> None:
        if self._tlsConnection is not None:
            super()._flushSendBIO()

    def _write(self, data: bytes) -> None:
        if self._tlsConnection is None and not self._lostTLSConnection:
            self._bufferedWrite(data)
        else:
            super()._write(data)

    def _shutdownTLS(self) -> None:
        """Send close_notify, and close below without waiting for the peer's (RFC 8446 6.1, RFC 5246 7.2.1).

        A lingering transport discards what still arrives. Another one would reset the peer, so there Twisted waits.
        """
        if self._tlsConnection is None:
            return
        super()._shutdownTLS()
        transport: Any = self.transport
        if self._handshakeDone and not self._aborted and hasattr(transport, "call_when_closed"):
            self._lostTLSConnection = True
            transport.loseConnection()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None:
            error = reason.value
            if error is None or not error.args:  # Twisted (26.10) reads the first one
                error = SSL.Error([("SSL routines", "", CLOSED_EARLY)])
                reason = Failure(error)
            self._report_error(error)
        super()._tlsShutdownFinished(reason)

    # Reports

    def _refuse(self, reason: TlsFailure) -> None:
        self._report(reason)
        self.abortConnection()

    def _report_error(self, error: BaseException) -> None:
        what = str(error).casefold()
        closed = "unexpected eof" in what or CLOSED_EARLY in what
        if not self._handshakeDone:
            self._report(
                "tls-closed"
                if closed
                else "tls-alert"
                if " alert " in what
                else "tls-certificate"
                if "certificate" in what
                else "tls-handshake"
            )
        elif not closed:
            self._report("tls-record")

    def _report(self, reason: TlsFailure) -> None:
        if not self._reported:
            self._reported = True
            self.factory.failed(reason, self.getPeer())


class TlsFactory(TLSMemoryBIOFactory):
    """Puts TLS below the protocols of ``wrapped``. ``failed`` is called with a reason and the peer when TLS fails."""

    protocol = TlsTransport

    def __init__(
        self,
        contexts: IOpenSSLServerConnectionCreator,
        wrapped: IProtocolFactory,
        failed: Callable[[TlsFailure, IAddress], object],
        reactor: IReactorTime,
    ) -> None:
        super().__init__(contexts, False, wrapped, reactor)
        self.failed = failed
        self._contexts: Any = contexts
        self.connection_for = self._creatorCallable
        none_yet: Any = lambda _transport: None  # noqa: E731 - made when there is a ClientHello
        self._creatorCallable = none_yet

    def doStart(self) -> None:
        """Follow the certificates on disk while there is a port."""
        super().doStart()
        if self.numPorts == 1:
            self._contexts.start()

    def doStop(self) -> None:
        """Follow them no longer."""
        super().doStop()
        if not self.numPorts:
            self._contexts.stop()
