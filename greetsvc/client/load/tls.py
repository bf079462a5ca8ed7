"""The probes of a load run over TLS: a full handshake each time, as a new peer makes it."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any, cast

from OpenSSL import SSL

from greetsvc.client.alerts import TLS_CLOSED, tls_words
from greetsvc.client.load.connections import GREETED, TOO_LONG, Connection, LoadResult, Streams, ended, failed
from greetsvc.client.load.polling import ERROR, HANGUP, READ, WRITE, Poller
from greetsvc.client.load.talk import TalkingConnection, TalkStreams
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.tls import ClientTls
from greetsvc.client.words import NO_GREETING, Phase

__all__ = ["TlsStreams", "TlsTalkStreams"]

_PIECE = 65536


class _Session:
    """The TLS state of one probe: engine, phase, data that waits to be sent, and why sending or verifying failed."""

    __slots__ = ("certificate_error", "engine", "phase", "send_errno", "unsent")

    def __init__(self, tls: ClientTls, host: str) -> None:
        self.phase: Phase = "connect"
        self.certificate_error = ""
        self.send_errno = 0
        self.unsent = b""
        self.engine = tls.creator(host, self._refuse).clientConnectionForTLS(cast("Any", None))
        self.engine.set_connect_state()

    def _refuse(self, why: str) -> None:
        self.certificate_error = why


class TlsStreams(Streams):
    """Connect, do the TLS handshake, read to the end; certificates are checked as `greet` checks them."""

    after_connect: Phase = "tls"

    def __init__(self, remote: SocketAddress, limit: int, poller: Poller, tls: ClientTls, host: str) -> None:
        super().__init__(remote, limit, poller)
        self._tls = tls
        self._host = host

    def start(self, connection: Connection) -> LoadResult | None:
        """Connect; the handshake begins when that has succeeded."""
        result = super().start(connection)
        if result is None:
            connection.session = _Session(self._tls, self._host)
            self._poller.modify(connection.fd, READ | WRITE | HANGUP)
        return result

    def ready(self, connection: Connection, events: int) -> LoadResult | None:
        """Give what came to the TLS engine, and send what the engine produces."""
        session: _Session = connection.session
        ended = False
        try:
            if events & ~WRITE:
                piece = connection.sock.recv(_PIECE)
                ended = not piece
                session.engine.bio_write(piece) if piece else session.engine.bio_shutdown()
        except BlockingIOError:
            if events & ERROR and (broken := self._lost(connection, 0)) is not None:
                return broken
        except OSError as error:
            return self._lost(connection, error.errno or errno.EIO)
        if session.phase == "connect":
            session.phase = "tls"
        result = self._advance(connection, session)
        self._send(connection, session)
        if result is None and ended:
            number = session.send_errno
            result = self._lost(connection, number) if number else self._closed(connection, session)
        return result

    def _lost(self, connection: Connection, number: int) -> LoadResult | None:
        result = self._broken(connection, number)
        in_tls = result is not None and result.phase == "greet" and connection.session.phase != "greet"
        return result._replace(phase="tls") if result and in_tls else result

    def _advance(self, connection: Connection, session: _Session) -> LoadResult | None:
        try:
            if session.phase == "tls":
                session.engine.do_handshake()
                session.phase = "greet"
            while True:
                connection.data += session.engine.recv(_PIECE)
                if len(connection.data) > self._limit:
                    return TOO_LONG
        except (SSL.WantReadError, SSL.SysCallError):  # SysCallError: the stream has ended, as `ready` knows
            return None
        except SSL.ZeroReturnError:
            with suppress(SSL.Error):  # if our close_notify cannot be sent, the greeting still counts
                session.engine.shutdown()
            return GREETED if connection.data else self._closed(connection, session)
        except SSL.Error as error:
            if connection.data:
                return _unless_cut(connection.data)
            return _handshake_failed(session, tls_words(error, handshake_done=session.phase == "greet"))

    def _closed(self, connection: Connection, session: _Session) -> LoadResult:
        if connection.data:
            return _unless_cut(connection.data)
        if session.phase == "tls":
            return _handshake_failed(session, TLS_CLOSED)
        return failed("greet", errno.ENODATA, NO_GREETING)

    def _send(self, connection: Connection, session: _Session) -> None:
        """Send what the engine produced; what the socket does not take now waits until it is writable."""
        with suppress(SSL.WantReadError):
            session.unsent += session.engine.bio_read(_PIECE)
        try:
            if session.unsent:
                session.unsent = session.unsent[connection.sock.send(session.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:  # what the server sent before can still be read
            session.unsent, session.send_errno = b"", error.errno or errno.EIO
        self._poller.modify(connection.fd, READ | HANGUP | (WRITE if session.unsent else 0))

    def timed_out(self, connection: Connection) -> LoadResult:
        """What was missing: the connection, the handshake, the greeting or the end."""
        result = super().timed_out(connection)
        if result.phase != "tls":
            return result
        if connection.session.phase == "tls":
            return result._replace(words="the TLS handshake did not finish in time")
        return result._replace(phase="greet")


class TlsTalkStreams(TalkStreams, TlsStreams):
    """Talk over TLS."""

    def _stands(self, connection: Connection) -> bool:
        return bool(connection.session.phase == "greet")

    def _say(self, connection: TalkingConnection, data: bytes) -> None:
        unsent, connection.unsent = connection.unsent + data, b""
        with suppress(SSL.Error):  # an error that lasts is found when the socket is read
            if unsent:
                connection.session.engine.sendall(unsent)
        self._send(connection, connection.session)


def _unless_cut(data: bytes) -> LoadResult:
    """Many servers end without close_notify: that is told only when the greeting does not look whole."""
    result = ended(data, "fin")
    return result if result.cut_short else GREETED


def _handshake_failed(session: _Session, words: str) -> LoadResult:
    """TLS 1.3 refuses a client only after the client has finished its handshake; it is phase ``tls`` all the same."""
    return failed("tls", errno.EPROTO, session.certificate_error or words)
