"""The words for what becomes of a probe, and the values that they are about. Importing this needs no library."""

from __future__ import annotations

import errno
from typing import Literal

from greetsvc.printable import one_line, shortened

__all__ = [
    "CUT_SHORT",
    "ECHO",
    "EMPTY_ANSWER",
    "ENDED_EARLY",
    "ENDINGS",
    "IN_A_CHARACTER",
    "LATE_ANSWER",
    "NONE_MEASURED",
    "NOT_MEASURED",
    "NOT_WHOLE",
    "NO_BUFFER_ERRNOS",
    "NO_CLOSE_NOTIFY",
    "NO_FREE_PORT",
    "NO_GREETING",
    "NO_IPV6",
    "NO_LOOPBACK",
    "NO_RESOLVER",
    "NO_ROUTE",
    "NO_TALK",
    "NO_THREAD",
    "OTHER_ADDRESS",
    "OTHER_REQUEST",
    "PERHAPS_EARLIER",
    "REFUSED",
    "RESET_ERRNOS",
    "SELF_CONNECTED",
    "STILL_COMING",
    "STOPPED",
    "TLS_RECORD",
    "TOO_LATE",
    "TWO_ANSWERS",
    "UNASKED",
    "Closed",
    "Phase",
    "decimal",
    "failed_words",
    "health_line",
    "note_line",
]

Phase = Literal["resolve", "connect", "tls", "greet", "talk", "close"]
Closed = Literal["fin", "reset", "timeout"]

ENDINGS: dict[Closed, tuple[int, str]] = {
    "reset": (errno.ECONNRESET, "the connection was reset after the greeting"),
    "timeout": (errno.ETIMEDOUT, "the server did not close in time"),
}
"""Errno and words for a greeting that was not followed by a FIN: phase ``close``, yet greeted."""

NO_CLOSE_NOTIFY = "TLS ended without close_notify"
CUT_SHORT = "cut short"
"""Begins the words for a greeting of which only part came, by all we know."""
STILL_COMING = "and more was still coming"
IN_A_CHARACTER = "within a character"

STOPPED = "stopped before a greeting came"
NO_GREETING = "the connection was closed without a greeting"
NO_TALK = "the server closed after its greeting: it does not talk"
REFUSED = "the server refused"
ENDED_EARLY = "the server closed the connection"
NOT_WHOLE = "no whole greeting came"
UNASKED = "the server said what answers nothing"
EMPTY_ANSWER = "the answer is empty"
TLS_RECORD = "a TLS record came in place of a greeting"
OTHER_ADDRESS = "an answer came from another address"
NOT_MEASURED = "an answer was not measured"
NONE_MEASURED = "the far end gives no measured answers"
LATE_ANSWER = "an answer to an earlier request came late"
TOO_LATE = "an answer came after the time-out"
PERHAPS_EARLIER = "an answer came that may be to an earlier request: asked again from another port"
OTHER_REQUEST = "an answer to another request came"
TWO_ANSWERS = "an answer came twice"
ECHO = "our own request came back"
"""Said of an answer that begins with the mark (`greetsvc.wire.MARK`): no greeting does."""

SELF_CONNECTED = "nothing listens there: the socket connected to itself"

NO_RESOLVER = "no answer from the resolver"
NO_FREE_PORT = "this host has no free source port"
NO_LOOPBACK = "the loopback interface of this host is down"
NO_IPV6 = "this host has no IPv6 address"
NO_ROUTE = "this host has no route"
NO_THREAD = "this host cannot start another thread"

RESET_ERRNOS = frozenset([errno.ECONNRESET, errno.EPIPE])
"""A reset: EPIPE where something was sent after it arrived. A refused connection has another errno."""
NO_BUFFER_ERRNOS = frozenset([errno.EAGAIN, errno.ENOBUFS])
"""The system had no buffer for a datagram, such as for a UNIX receiver with a full queue: send it again later."""

_LONGEST_NOTE = 1000


def decimal(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, but all of its whole part; never with an exponent."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def failed_words(phase: Phase, why: str, asked: str = "") -> str:
    """A failure in words: the step, the reason, and which address of a name was ``asked``."""
    return f"{phase}: {why}" + (f" ({asked})" if asked else "")


def health_line(target: object, note: str) -> str:
    """What a health check says of its target."""
    return f"greet: {one_line(str(target))}: {note_line(note)}"


def note_line(note: str) -> str:
    """A remark as reports show it: one line, and not longer than a screen. Much of it may come from the far end."""
    return one_line(shortened(note, _LONGEST_NOTE))
