"""What a probe came to: a `Greeting`, or a `GreetFailed` that names the step and the errno."""

from __future__ import annotations

import errno
import os
import socket
from typing import Literal

from attrs import field, frozen

from greetsvc.client.path import PathVerdict
from greetsvc.client.sent import Sent
from greetsvc.client.target import Target
from greetsvc.visit import Address

__all__ = ["ECHO", "ENDINGS", "Closed", "GreetFailed", "Greeting", "Phase", "Seconds", "errno_of", "words_of"]

ECHO = "our own request came back"
"""No greeting begins with the mark (`greetsvc.wire.MARK`), so an answer that does is one of these."""

Phase = Literal["resolve", "connect", "tls", "greet", "close"]
Closed = Literal["fin", "reset", "timeout"]

ENDINGS: dict[Closed, tuple[int, str]] = {
    "reset": (errno.ECONNRESET, "the connection was reset after the greeting"),
    "timeout": (errno.ETIMEDOUT, "the far end did not close in time"),
}
"""What is said, with an errno, of a greeting that came and was not ended by a FIN: phase ``close``, yet greeted."""

_NO_SUCH_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


@frozen
class Seconds:
    """How long each step took, in seconds; None for a step that there was none of, or that did not end.

    ``first_byte`` counts from the moment the way was open (connected, TLS agreed; for datagrams: the request sent).
    ``total`` counts from the start of the probe to its verdict.
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
    ``peer`` is the address that answered. ``closed`` is how the far end ended the connection: ``fin``, ``reset``, or
    ``timeout`` when it had not ended it in time; None for datagrams. ``notes`` are remarks, a line each, such as an
    answer that came from elsewhere. ``path`` is what the path did to our packets, where the greeting is a path
    record; ``sent`` is what our own side knows, for TCP and UDP.
    """

    target: Target
    data: bytes = field(repr=False)
    text: str
    seconds: Seconds
    peer: Address
    closed: Closed | None = None
    notes: tuple[str, ...] = ()
    path: PathVerdict | None = None
    sent: Sent | None = None


class GreetFailed(OSError):
    """No greeting came: ``errno`` and ``strerror`` say why, ``phase`` in which step.

    What has no errno of its own gets the nearest: see the table in docs/client.md. ``target``, ``peer`` (None before
    there is an address), ``seconds``, ``closed``, ``notes`` and ``sent`` are as in `Greeting`.
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
    ) -> None:
        super().__init__(number, why)
        self.phase = phase
        self.target = target
        self.peer = peer
        self.seconds = seconds or Seconds()
        self.closed = closed
        self.notes = notes
        self.sent = sent

    def __str__(self) -> str:
        return f"{self.phase}: {self.strerror}"


def errno_of(error: OSError) -> int:
    """The errno that a failed system call or look-up is reported with."""
    if isinstance(error, socket.gaierror):
        return errno.ENOENT if error.errno in _NO_SUCH_NAME else errno.EAGAIN
    return error.errno or errno.EIO


def words_of(error: OSError) -> str:
    """The same in words: the resolver's own, or the system's."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "the look-up failed"
    return os.strerror(error.errno) if error.errno else str(error)
