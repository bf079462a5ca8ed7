"""What comes on a stream, and what the end of it means, apart from TLS. Pure: no socket, no reactor.

Importing this needs no library: a health check does.
"""

from __future__ import annotations

import codecs
import errno
import os
from typing import TYPE_CHECKING, Any

from greetsvc.client.probe.system import system_failed
from greetsvc.client.words import (
    CUT_SHORT,
    ENDINGS,
    IN_A_CHARACTER,
    NO_GREETING,
    RESET_ERRNOS,
    SELF_CONNECTED,
    STILL_COMING,
    TLS_RECORD,
    Closed,
)

if TYPE_CHECKING:
    from greetsvc.client.evidence.icmp import Icmp

__all__ = ["FULL_RETRY", "TLS_RECORDS", "StreamRules"]

FULL_RETRY = 0.05
"""Seconds until connecting to a UNIX socket whose queue is full is tried again: nothing tells when it has room."""

TLS_RECORDS = tuple(bytes([kind, 3, version]) for kind in (21, 22) for version in range(5))
"""How an alert, or a message of the handshake, begins (RFC 8446 5.1): what a TLS server says to plain bytes."""


class StreamRules:
    """The rules of one stream probe. They decide; who has the socket acts. A subclass has the fields."""

    timeline: Any
    """The steps of the probe: `greetsvc.client.probe.steps.Steps`."""
    tls: bool
    data: bytearray
    last_piece: float
    longest_pause: float
    """When the last piece came, and the longest pause between two of them, in seconds."""
    timed_out: bool
    self_connected: bool

    def connected(self, retransmits: int = 0) -> None:
        """The connection is established, after its SYN was sent again so often."""
        self.timeline.leave()
        if retransmits:
            self.timeline.note(f"connected only after the SYN was sent {retransmits + 1} times")
        self.timeline.enter("tls" if self.tls else "greet")

    def received(self, data: bytes) -> bool:
        """Keep what came; False when it is longer than the limit."""
        limit, now = int(self.timeline.options.limit), self.timeline.now()
        if self.data:
            self.longest_pause = max(self.longest_pause, now - self.last_piece)
        self.last_piece = now
        self.timeline.first_byte()
        self.data += data[: limit + 1 - len(self.data)]
        return len(self.data) <= limit

    def no_connection(self, number: int, icmp: Icmp | None = None) -> Exception:
        """What to raise when connecting failed with this errno, where ``icmp`` is what ended the attempt."""
        fail = self.timeline.failed
        failed: Exception
        if self.timed_out:
            failed = fail(errno.ETIMEDOUT, f"no connection {self.timeline.within}", "timeout")
        elif number in RESET_ERRNOS:
            # It was established and reset before we looked: a connection that is refused has another errno.
            self.connected()
            failed = fail(errno.ECONNRESET, os.strerror(errno.ECONNRESET), "reset")
        else:
            failed = system_failed(self.timeline, number, icmp)
        return failed

    def end(self, closed: Closed, error: BaseException | None = None) -> Closed:
        """How the greeting that came has ended; ``error`` is the reason that a layer above the stream gives.

        :raises Exception: that of the timeline, when no greeting came.
        """
        fail, limit = self.timeline.failed, self.timeline.options.limit
        if self.self_connected:
            raise fail(errno.ECONNREFUSED, SELF_CONNECTED)
        if len(self.data) > limit:
            raise fail(errno.EMSGSIZE, f"the greeting is longer than {limit} bytes")
        if not self.tls and self.data.startswith(TLS_RECORDS):
            raise fail(errno.EPROTO, TLS_RECORD, closed)
        if self.data:
            self._judge(self.bad_end(closed, error))
            return closed
        if self.timed_out:
            raise fail(errno.ETIMEDOUT, f"{self.missing()} {self.timeline.within}", closed)
        self.check_layer(closed, error)
        if closed == "reset":
            raise fail(errno.ECONNRESET, os.strerror(errno.ECONNRESET), closed)
        raise fail(errno.ENODATA, NO_GREETING, closed)

    def missing(self) -> str:
        """What did not come in time."""
        return "no greeting"

    def bad_end(self, closed: Closed, error: BaseException | None) -> str:
        """What is wrong with the end after a greeting, in words; empty when nothing is."""
        return ENDINGS[closed][1] if closed in ENDINGS else ""

    def check_layer(self, closed: Closed, error: BaseException | None) -> None:
        """Raise when a layer above the stream is the reason that no greeting came."""

    def _judge(self, how: str) -> None:
        """Say whether the greeting is whole. Without a proper end, a line end is the only sign that it is.

        What comes in pieces is not whole, whatever it ends with, when the silence after it was no longer than the
        pauses before; and nothing is whole that ends within a character.
        """
        timeline, why = self.timeline, ""
        if how and self.timed_out and timeline.now() - self.last_piece <= self.longest_pause:
            why = STILL_COMING
        elif how and not self.data.decode(timeline.options.encoding, "replace").endswith("\n"):
            why = "without a line end"
        elif not how and _ends_in_a_character(self.data, timeline.options.encoding):
            why, how = IN_A_CHARACTER, "the server closed"
        if why:
            count = f"{len(self.data)} byte{'' if len(self.data) == 1 else 's'}"
            timeline.cut_short = f"{CUT_SHORT} after {count} {why}: {how}"


def _ends_in_a_character(data: bytearray, encoding: str) -> bool:
    """Whether the last character needs more bytes than came."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    decoder.decode(bytes(data))
    return bool(decoder.getstate()[0])
