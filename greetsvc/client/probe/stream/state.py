"""What a stream has received so far, and what its end means, with TLS. Pure: no socket, no reactor."""

from __future__ import annotations

import errno

from attrs import define, field
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost

from greetsvc.client.alerts import TLS_CLOSED, tls_words
from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.probe.stream.rules import StreamRules
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import GreetFailed
from greetsvc.client.words import NO_CLOSE_NOTIFY, Closed

__all__ = ["StreamState", "is_tls"]


@define
class StreamState(StreamRules):
    """The state of one stream probe. It decides; `StreamProbe` acts."""

    timeline: Timeline
    tls: bool = False
    data: bytearray = field(factory=bytearray)
    last_piece: float = 0.0
    longest_pause: float = 0.0
    timed_out: bool = False
    self_connected: bool = False
    certificate_error: str = ""
    """Why we did not accept the certificate of the server."""

    def connected(self, retransmits: int = 0) -> None:
        """The connection is established; how often its SYN was sent is what our side knows of it."""
        sent = self.timeline.sent
        super().connected(retransmits if sent is None or sent.tcp is None else sent.tcp.retransmits)

    def handshake_done(self) -> None:
        """The TLS handshake is done."""
        self.timeline.leave()
        self.timeline.enter("greet")

    def not_connected(self, error: Exception, icmp: Icmp | None = None) -> GreetFailed:
        """The result when the connection could not be established, where ``icmp`` is what ended the attempt."""
        number = error.osError if isinstance(error, ConnectError) and isinstance(error.osError, int) else errno.EIO
        failed = self.no_connection(number, icmp)
        assert isinstance(failed, GreetFailed)
        return failed

    def how(self, stream_error: BaseException) -> Closed:
        """How the connection ended, by the reason of the stream below TLS."""
        return "timeout" if self.timed_out else "reset" if isinstance(stream_error, ConnectionLost) else "fin"

    def ended(self, error: BaseException, stream_error: BaseException) -> Closed:
        """How the greeting that came has ended.

        ``error`` is the reason that the outermost layer gives, ``stream_error`` the reason of the stream below TLS.

        :raises GreetFailed: when no greeting came.
        """
        return self.end(self.how(stream_error), error)

    def missing(self) -> str:
        """What did not come in time."""
        return "the TLS handshake did not finish" if self.timeline.phase == "tls" else super().missing()

    def bad_end(self, closed: Closed, error: BaseException | None) -> str:
        """What is wrong with the end after a greeting, in words; TLS has an end of its own."""
        if self.tls and closed == "fin" and isinstance(error, ConnectionLost):
            self.timeline.note(f"{NO_CLOSE_NOTIFY}: the greeting may be cut short")
            return NO_CLOSE_NOTIFY
        if self.tls and error is not None and is_tls(error):
            how = tls_words(error, handshake_done=True)
            self.timeline.note(f"after the greeting: {how}")
            return how
        return super().bad_end(closed, error)

    def check_layer(self, closed: Closed, error: BaseException | None) -> None:
        """Raise when TLS is the reason: during the handshake or, where TLS 1.3 refuses a client, just after it."""
        if self.certificate_error:
            why = self.certificate_error
        elif error is not None and is_tls(error):
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
