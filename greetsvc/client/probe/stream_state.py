"""What a stream has received so far, and what its end means. Pure: no socket, no reactor."""

from __future__ import annotations

import errno
import os

from attrs import define, field
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost

from greetsvc.client.alerts import TLS_CLOSED, tls_words
from greetsvc.client.icmp import Icmp
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import (
    CUT_SHORT,
    ENDINGS,
    NO_CLOSE_NOTIFY,
    NO_GREETING,
    RESET_ERRNOS,
    STILL_COMING,
    TLS_RECORD,
    Closed,
    GreetFailed,
)

__all__ = ["TLS_RECORDS", "StreamState", "is_tls"]

TLS_RECORDS = tuple(bytes([kind, 3, version]) for kind in (21, 22) for version in range(5))
"""How an alert, or a message of the handshake, begins (RFC 8446 5.1): what a TLS server says to plain bytes."""


@define
class StreamState:
    """The state of one stream probe. It decides; `StreamProbe` acts."""

    timeline: Timeline
    tls: bool = False
    data: bytearray = field(factory=bytearray)
    last_piece: float = 0.0
    longest_pause: float = 0.0
    """When the last piece came, and the longest pause between two of them, in seconds."""
    timed_out: bool = False
    self_connected: bool = False
    certificate_error: str = ""
    """Why we did not accept the certificate of the server."""

    def connected(self) -> None:
        """The connection is established."""
        self.timeline.leave()
        sent = self.timeline.sent
        if sent is not None and sent.tcp is not None and sent.tcp.retransmits:
            self.timeline.note(f"connected only after the SYN was sent {sent.syns} times")
        self.timeline.enter("tls" if self.tls else "greet")

    def handshake_done(self) -> None:
        """The TLS handshake is done."""
        self.timeline.leave()
        self.timeline.enter("greet")

    def received(self, data: bytes) -> bool:
        """Keep what came; False when it is longer than the limit."""
        limit, now = self.timeline.options.limit, self.timeline.now()
        if self.data:
            self.longest_pause = max(self.longest_pause, now - self.last_piece)
        self.last_piece = now
        self.timeline.first_byte()
        self.data += data[: limit + 1 - len(self.data)]
        return len(self.data) <= limit

    def not_connected(self, error: Exception, icmp: Icmp | None = None) -> GreetFailed:
        """The result when the connection could not be established, where ``icmp`` is what ended the attempt."""
        fail = self.timeline.failed
        if self.timed_out:
            return fail(errno.ETIMEDOUT, f"no connection {self.timeline.within}", "timeout")
        number = error.osError if isinstance(error, ConnectError) and isinstance(error.osError, int) else errno.EIO
        if number in RESET_ERRNOS:
            # It was established and reset before we looked: a connection that is refused has another errno.
            self.connected()
            return fail(errno.ECONNRESET, os.strerror(errno.ECONNRESET), "reset")
        return system_failed(self.timeline, number, icmp)

    def how(self, stream_error: BaseException) -> Closed:
        """How the connection ended, by the reason of the stream below TLS."""
        return "timeout" if self.timed_out else "reset" if isinstance(stream_error, ConnectionLost) else "fin"

    def ended(self, error: BaseException, stream_error: BaseException) -> Closed:
        """How the greeting that came has ended.

        ``error`` is the reason that the outermost layer gives, ``stream_error`` the reason of the stream below TLS.

        :raises GreetFailed: when no greeting came.
        """
        fail, limit = self.timeline.failed, self.timeline.options.limit
        if self.self_connected:
            raise fail(errno.ECONNREFUSED, "nothing listens there: the socket connected to itself")
        if len(self.data) > limit:
            raise fail(errno.EMSGSIZE, f"the greeting is longer than {limit} bytes")
        closed = self.how(stream_error)
        if not self.tls and self.data.startswith(TLS_RECORDS):
            raise fail(errno.EPROTO, TLS_RECORD, closed)
        if self.data:
            self._judge(error, closed)
            return closed
        if self.timed_out:
            in_tls = self.timeline.phase == "tls"
            missing = "the TLS handshake did not finish" if in_tls else "no greeting"
            raise fail(errno.ETIMEDOUT, f"{missing} {self.timeline.within}", closed)
        self._raise_tls_failure(error, closed)
        if closed == "reset":
            raise fail(errno.ECONNRESET, os.strerror(errno.ECONNRESET), closed)
        raise fail(errno.ENODATA, NO_GREETING, closed)

    def _judge(self, error: BaseException, closed: Closed) -> None:
        """Say whether the greeting is whole. Without a proper end, a line end is the only sign that it is.

        What comes in pieces is not whole, whatever it ends with, when the silence after it was no longer than the
        pauses before.
        """
        timeline = self.timeline
        if self.tls and closed == "fin" and isinstance(error, ConnectionLost):
            how = NO_CLOSE_NOTIFY
            timeline.note(f"{how}: the greeting may be cut short")
        elif self.tls and is_tls(error):
            how = tls_words(error, handshake_done=True)
            timeline.note(f"after the greeting: {how}")
        elif closed in ENDINGS:
            how = ENDINGS[closed][1]
        else:
            return
        coming = self.timed_out and timeline.now() - self.last_piece <= self.longest_pause
        if coming or not self.data.decode(timeline.options.encoding, "replace").endswith("\n"):
            count = f"{len(self.data)} byte{'' if len(self.data) == 1 else 's'}"
            why = STILL_COMING if coming else "without a line end"
            timeline.cut_short = f"{CUT_SHORT} after {count} {why}: {how}"

    def _raise_tls_failure(self, error: BaseException, closed: Closed) -> None:
        """Raise when TLS is the reason: during the handshake or, where TLS 1.3 refuses a client, just after it."""
        if self.certificate_error:
            why = self.certificate_error
        elif is_tls(error):
            why = tls_words(error, handshake_done=self.timeline.phase != "tls")
        elif self.timeline.phase == "tls" and closed == "fin":
            why = TLS_CLOSED
        else:
            return
        self.timeline.phase = "tls"
        raise self.timeline.failed(errno.EPROTO, why, closed)


def is_tls(error: BaseException) -> bool:
    """Whether a connection ended because of TLS."""
    return not isinstance(error, ConnectionDone | ConnectionLost | ConnectionAborted)
