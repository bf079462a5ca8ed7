"""What one stream said, and what its end means. Pure: no socket, no reactor."""

from __future__ import annotations

import errno
import os

from attrs import define, field
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost

from greetsvc.client.alerts import CLOSED, tls_words
from greetsvc.client.probe.timeline import Progress
from greetsvc.client.result import Closed, GreetFailed

__all__ = ["Heard"]

_RESETS = frozenset([errno.ECONNRESET, errno.EPIPE])
"""What a reset makes of a connection that stood before we looked; one that is refused gives another errno."""


@define
class Heard:
    """What one stream said until it ended, and how it ended. Pure: it decides, `StreamProbe` does."""

    progress: Progress
    limit: int
    tls: bool = False
    data: bytearray = field(factory=bytearray)
    timed_out: bool = False
    met_itself: bool = False
    refused: str = ""
    """Why we did not accept the far end's certificate."""

    def connected(self) -> None:
        """The connection stands."""
        self.progress.leave()
        sent = self.progress.sent
        if sent is not None and sent.tcp is not None and sent.tcp.retransmits:
            self.progress.note(f"connected only after the SYN was sent {sent.syns} times: packets are lost")
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
        if self.met_itself:
            raise fail(errno.ECONNREFUSED, "nothing listens there, and the connection met itself")
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
            progress.note(f"after the greeting: {tls_words(error, agreed=True)}")

    def _silence(self) -> str:
        waited = f"within {self.progress.timeout:g} s"
        return f"TLS was not agreed {waited}" if self.progress.phase == "tls" else f"no greeting {waited}"

    def _blame_tls(self, error: BaseException, closed: Closed) -> None:
        """Raise when TLS is the reason: while it is agreed, or (TLS 1.3 refuses a client only then) just after."""
        if self.refused:
            why = self.refused
        elif _is_tls(error):
            why = tls_words(error, agreed=self.progress.phase != "tls")
        elif self.progress.phase == "tls" and closed == "fin":
            why = CLOSED
        else:
            return
        self.progress.phase = "tls"
        raise self.progress.failed(errno.EPROTO, why, closed)


def _is_tls(error: BaseException) -> bool:
    return not isinstance(error, ConnectionDone | ConnectionLost | ConnectionAborted)
