"""The result of a probe: a `Greeting`, or a `GreetFailed` with the step that failed and the errno."""

from __future__ import annotations

import errno

from attrs import field, frozen

from greetsvc.client.evidence.handshake import UNKNOWN, Handshake
from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.path import PathChanges, Sent
from greetsvc.client.target import Target
from greetsvc.client.words import ENDINGS, Closed, Phase, failed_words
from greetsvc.visit import Address

__all__ = [
    "Attempt",
    "Exchange",
    "GreetFailed",
    "Greeting",
    "RoundTrip",
    "Seconds",
    "Talked",
]

_LOCAL_ERRNOS = frozenset(
    [
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAFNOSUPPORT),
    ]
)


@frozen
class Seconds:
    """How long each step took, in seconds; None for a step that did not happen or did not end.

    ``first_byte`` counts from the end of the previous step (connected, TLS handshake done, datagram request sent).
    ``total`` counts from the start of the probe to its result.
    """

    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    first_byte: float | None = None
    total: float = 0.0


_APART = 0.001
"""Seconds by which our two clocks, CLOCK_REALTIME and the monotonic one, may differ about the time of an answer."""


@frozen
class Exchange:
    """A request and its measured answer, in raw numbers (`greetsvc.wire.Measured`).

    ``sent`` and ``received`` are by our clock, ``rx`` and ``tx`` by the server's, all CLOCK_REALTIME in nanoseconds.
    ``ttl`` and ``tos`` are those of the request as it arrived, ``back_ttl`` and ``back_tos`` those of the answer.
    """

    sent: int
    rx: int
    tx: int
    received: int
    seen: int
    seq: int
    ttl: int | None
    tos: int | None
    size: int
    back_ttl: int | None
    back_tos: int | None


@frozen
class Attempt:
    """One datagram request: when it was sent, in seconds after the start of the probe, and how long its answer took.

    ``seconds`` is None when no answer came before the probe was over, or when it is not known which one was its.
    ``exchange`` is what a measured answer says.
    """

    time: float
    seconds: float | None = None
    exchange: Exchange | None = None

    @property
    def round_trip(self) -> float | None:
        """How long the answer took; a measured one until our kernel had it, less the time that the server took.

        Times that cannot be are not used: a clock was set, or the server lies.
        """
        took, exchange = self.seconds, self.exchange
        if took is None or exchange is None:
            return took
        whole, served = exchange.received - exchange.sent, exchange.tx - exchange.rx
        return (whole - served) / 1e9 if 0 <= served <= whole <= (took + _APART) * 1e9 else took


@frozen
class RoundTrip:
    """One message on a connection that goes on: what was ``said``, its reply, and the seconds in between."""

    said: str
    reply: str
    seconds: float


@frozen
class Talked:
    """What was talked on one connection; ``close`` is how many seconds the server took to close after we did."""

    protocol: str
    round_trips: tuple[RoundTrip, ...] = ()
    close: float | None = None

    @property
    def seconds(self) -> float:
        """How long all round trips took."""
        return sum(trip.seconds for trip in self.round_trips)


@frozen
class Greeting:
    r"""A greeting that came.

    ``data`` is what arrived, in bytes; ``text`` the same decoded, bytes that do not decode written as ``\xNN``.
    ``peer`` is the address that answered. ``closed`` is how the server ended the connection: ``fin``, ``reset``, or
    ``timeout`` when it did not end it in time; None for datagrams. ``notes`` are remarks, a line each, such as an
    answer that came from another address. ``path`` is what the path did to our packets, where the greeting is a path
    record; ``sent`` is what our own side knows, for TCP and UDP. ``attempts`` are the datagram requests.
    ``cut_short`` says why only part of the greeting came, and how much; it is empty for a whole one. ``talk`` is what
    was said after it, where we talked. ``handshake`` says what was lost of the TCP handshake, as far as it is known.
    ``time`` is when the probe began, in seconds since 1970.
    """

    target: Target
    data: bytes = field(repr=False)
    text: str
    seconds: Seconds
    peer: Address
    closed: Closed | None = None
    notes: tuple[str, ...] = ()
    path: PathChanges | None = None
    sent: Sent | None = None
    attempts: tuple[Attempt, ...] = ()
    cut_short: str = ""
    time: float | None = None
    talk: Talked | None = None
    handshake: Handshake = UNKNOWN

    @property
    def said(self) -> str:
        """All that the server said: its greeting and, where we talked, its replies, each on a line."""
        trips = self.talk.round_trips if self.talk else ()
        return "\n".join([self.text, *(trip.reply for trip in trips)])

    @property
    def ending_errno(self) -> int | None:
        """The errno of an end that makes the greeting, or the connection, incomplete; None where there is none."""
        return ENDINGS[self.closed][0] if self.closed in ENDINGS else errno.EPROTO if self.cut_short else None

    @property
    def took(self) -> float | None:
        """Seconds from the request that was answered to its answer; for a stream, of the whole probe but the talk.

        The time that a server which measures took itself is not part of it.
        """
        if not self.attempts:
            return self.seconds.total - (self.talk.seconds if self.talk else 0.0)
        return next((attempt.round_trip for attempt in self.attempts if attempt.seconds is not None), None)

    @property
    def measured(self) -> bool:
        """Whether it is a measured answer, in place of the server's greeting."""
        return any(attempt.exchange is not None for attempt in self.attempts)

    @property
    def requests_lost(self) -> int:
        """Datagram requests without an answer; those that were sent after the answered one are not counted."""
        return next((n for n, attempt in enumerate(self.attempts) if attempt.seconds is not None), 0)


class GreetFailed(OSError):
    """No greeting came: ``errno`` and ``strerror`` say why, ``phase`` in which step.

    What has no errno of its own gets the nearest: see the table in docs/client.md. ``target``, ``peer`` (None before
    there is an address), ``seconds``, ``closed``, ``notes``, ``sent``, ``attempts``, ``talk`` and ``time`` are as in
    `Greeting`. ``icmp`` is the ICMP message that ended the probe, or None. ``asked`` says which address of a name was
    asked, and which were not.
    """

    def __init__(
        self,
        number: int,
        why: str,
        phase: Phase = "greet",
        *,
        target: Target | None = None,
        peer: Address | None = None,
        seconds: Seconds | None = None,
        closed: Closed | None = None,
        notes: tuple[str, ...] = (),
        sent: Sent | None = None,
        attempts: tuple[Attempt, ...] = (),
        asked: str = "",
        icmp: Icmp | None = None,
        talk: Talked | None = None,
        time: float | None = None,
    ) -> None:
        super().__init__(number, why)
        self.phase = phase
        self.target = target
        self.peer = peer
        self.seconds = seconds or Seconds()
        self.closed = closed
        self.notes = notes
        self.sent = sent
        self.attempts = attempts
        self.asked = asked
        self.icmp = icmp
        self.talk = talk
        self.time = time

    @property
    def requests_lost(self) -> int:
        """Datagram requests without an answer: all of them."""
        return len(self.attempts)

    @property
    def never_sent(self) -> bool:
        """Whether this host or the resolver failed before anything was sent: it says nothing about the path."""
        return self.phase == "resolve" or (self.errno in _LOCAL_ERRNOS and self.icmp is None)

    def __str__(self) -> str:
        return failed_words(self.phase, self.strerror or "", self.asked)
