"""The result of a probe: a `Greeting`, or a `GreetFailed` with the step that failed and the errno."""

from __future__ import annotations

import errno
from typing import Literal

from attrs import field, frozen

from greetsvc.client.icmp import Icmp
from greetsvc.client.path import PathChanges, Sent
from greetsvc.client.target import Target
from greetsvc.visit import Address

__all__ = [
    "ECHO",
    "EMPTY_ANSWER",
    "ENDINGS",
    "NO_BUFFER_ERRNOS",
    "NO_FREE_PORT",
    "NO_GREETING",
    "NO_IPV6",
    "NO_ROUTE",
    "NO_THREAD",
    "OTHER_ADDRESS",
    "RESET_ERRNOS",
    "Closed",
    "GreetFailed",
    "Greeting",
    "Phase",
    "Seconds",
]

Phase = Literal["resolve", "connect", "tls", "greet", "close"]
Closed = Literal["fin", "reset", "timeout"]

ENDINGS: dict[Closed, tuple[int, str]] = {
    "reset": (errno.ECONNRESET, "the connection was reset after the greeting"),
    "timeout": (errno.ETIMEDOUT, "the server did not close in time"),
}
"""Errno and words for a greeting that was not followed by a FIN: phase ``close``, yet greeted."""

NO_GREETING = "the connection was closed without a greeting"
EMPTY_ANSWER = "the answer is empty"
OTHER_ADDRESS = "an answer came from another address"
ECHO = "our own request came back"
"""Said of an answer that begins with the mark (`greetsvc.wire.MARK`): no greeting does."""

NO_FREE_PORT = "this host has no free source port"
NO_IPV6 = "this host has no IPv6 address"
NO_ROUTE = "this host has no route"
NO_THREAD = "this host cannot start another thread"

RESET_ERRNOS = frozenset([errno.ECONNRESET, errno.EPIPE])
"""A reset: EPIPE where something was sent after it arrived. A refused connection has another errno."""
NO_BUFFER_ERRNOS = frozenset([errno.EAGAIN, errno.ENOBUFS])
"""The system had no buffer for a datagram, such as for a UNIX receiver with a full queue: send it again later."""

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


@frozen
class Greeting:
    r"""A greeting that came.

    ``data`` is what arrived, in bytes; ``text`` the same decoded, bytes that do not decode written as ``\xNN``.
    ``peer`` is the address that answered. ``closed`` is how the server ended the connection: ``fin``, ``reset``, or
    ``timeout`` when it did not end it in time; None for datagrams. ``notes`` are remarks, a line each, such as an
    answer that came from another address. ``path`` is what the path did to our packets, where the greeting is a path
    record; ``sent`` is what our own side knows, for TCP and UDP.
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


class GreetFailed(OSError):
    """No greeting came: ``errno`` and ``strerror`` say why, ``phase`` in which step.

    What has no errno of its own gets the nearest: see the table in docs/client.md. ``target``, ``peer`` (None before
    there is an address), ``seconds``, ``closed``, ``notes`` and ``sent`` are as in `Greeting`. ``icmp`` is the ICMP
    message that ended the probe, or None.
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
        icmp: Icmp | None = None,
    ) -> None:
        super().__init__(number, why)
        self.phase = phase
        self.target = target
        self.peer = peer
        self.seconds = seconds or Seconds()
        self.closed = closed
        self.notes = notes
        self.sent = sent
        self.icmp = icmp

    @property
    def never_sent(self) -> bool:
        """Whether this host or the resolver failed before anything was sent: it says nothing about the path."""
        return self.phase == "resolve" or (self.errno in _LOCAL_ERRNOS and self.icmp is None)

    def __str__(self) -> str:
        return f"{self.phase}: {self.strerror}"
