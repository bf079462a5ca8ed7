"""A visit of a load run over TLS: a whole handshake each time, as a peer that comes for the first time makes it."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any, cast

from OpenSSL import SSL

from greetsvc.client.alerts import CLOSED, tls_words
from greetsvc.client.load.connections import GREETED, End, Streams, Visit, failed
from greetsvc.client.load.polling import HANGUP, READ, WRITE, Poller
from greetsvc.client.probe.resolve import Remote
from greetsvc.client.result import Phase
from greetsvc.client.tls import ClientTls

__all__ = ["TlsStreams"]

_PIECE = 65536


class _Session:
    """The state of one visit: the TLS engine, how far it is, what waits to be sent, and why it could not be."""

    __slots__ = ("engine", "lost", "phase", "refused", "unsent")

    def __init__(self, tls: ClientTls, host: str) -> None:
        self.phase: Phase = "connect"
        self.refused = ""
        self.lost = 0
        self.unsent = b""
        self.engine = tls.creator(host, self._refuse).clientConnectionForTLS(cast("Any", None))
        self.engine.set_connect_state()

    def _refuse(self, why: str) -> None:
        self.refused = why


class TlsStreams(Streams):
    """Connect, agree on TLS, read to the end; certificates are checked as `greet` checks them."""

    first: Phase = "tls"

    def __init__(self, remote: Remote, limit: int, poller: Poller, tls: ClientTls, host: str) -> None:
        super().__init__(remote, limit, poller)
        self._tls = tls
        self._host = host

    def ask(self, visit: Visit) -> End | None:
        """Connect; TLS begins when that has worked."""
        end = super().ask(visit)
        if end is None:
            visit.session = _Session(self._tls, self._host)
            self._poller.modify(visit.fd, READ | WRITE | HANGUP)
        return end

    def ready(self, visit: Visit, events: int) -> End | None:
        """Hand what came to the TLS engine, and send what that has to say."""
        session: _Session = visit.session
        ended = False
        try:
            if events & ~WRITE:
                piece = visit.sock.recv(_PIECE)
                ended = not piece
                session.engine.bio_write(piece) if piece else session.engine.bio_shutdown()
        except BlockingIOError:
            pass
        except OSError as error:
            return self._lost(visit, error.errno or errno.EIO)
        if session.phase == "connect":
            session.phase = "tls"
        end = self._advance(visit, session)
        self._send(visit, session)
        if end is None and ended:
            end = self._lost(visit, session.lost) if session.lost else self._closed(visit, session)
        return end

    def _lost(self, visit: Visit, number: int) -> End:
        end = self._broken(visit, number)
        return end._replace(phase="tls") if end.phase == "greet" and visit.session.phase != "greet" else end

    def _advance(self, visit: Visit, session: _Session) -> End | None:
        try:
            if session.phase == "tls":
                session.engine.do_handshake()
                session.phase = "greet"
            while True:
                visit.data += session.engine.recv(_PIECE)
                if len(visit.data) > self._limit:
                    return failed("greet", errno.EMSGSIZE, "the greeting is too long")
        except (SSL.WantReadError, SSL.SysCallError):  # the latter: the end of the stream, which `ready` has seen
            return None
        except SSL.ZeroReturnError:
            with suppress(SSL.Error):  # a failure here takes nothing from what came before
                session.engine.shutdown()
            return GREETED if visit.data else self._closed(visit, session)
        except SSL.Error as error:
            return (
                GREETED if visit.data else self._refused(session, tls_words(error, agreed=session.phase == "greet"))
            )

    def _refused(self, session: _Session, words: str) -> End:
        """TLS 1.3 refuses a client only after the client thinks that all is agreed; it is TLS all the same."""
        return failed("tls", errno.EPROTO, session.refused or words)

    def _closed(self, visit: Visit, session: _Session) -> End:
        if visit.data:
            return GREETED
        if session.phase == "tls":
            return self._refused(session, CLOSED)
        return failed("greet", errno.ENODATA, "the connection was closed without a word")

    def _send(self, visit: Visit, session: _Session) -> None:
        """Send what the engine has to say; what the socket does not take now it takes when it can be written."""
        with suppress(SSL.WantReadError):
            session.unsent += session.engine.bio_read(_PIECE)
        try:
            if session.unsent:
                session.unsent = session.unsent[visit.sock.send(session.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:  # what was said before that can still be read
            session.unsent, session.lost = b"", error.errno or errno.EIO
        self._poller.modify(visit.fd, READ | HANGUP | (WRITE if session.unsent else 0))

    def late(self, visit: Visit) -> End:
        """What was still to come: the connection, TLS or the greeting."""
        end = super().late(visit)
        if end.phase != "tls":
            return end
        if visit.session.phase == "tls":
            return end._replace(words="TLS was not agreed in time")
        return end._replace(phase="greet")
