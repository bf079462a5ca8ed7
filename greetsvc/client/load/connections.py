"""One visit of a load run, as lean as it goes: a non-blocking socket, told when it is ready, says when it is over.

The probe of `greet` tells each step; here a visit is a few system calls and nothing that is not needed to count it.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NamedTuple, Protocol

from greetsvc.client.load.polling import HANGUP, READ, Poller
from greetsvc.client.probe.resolve import Remote
from greetsvc.client.result import Phase

__all__ = ["AGAIN", "GREETED", "TOO_LONG", "Asker", "End", "Streams", "Visit", "failed", "opened"]

_UNDER_WAY = (0, errno.EINPROGRESS)
_RESETS = (errno.ECONNRESET, errno.EPIPE)
"""A reset is told as the second where something was sent after it, so both are counted as the first."""
_PIECE = 4096
_READABLE = READ | HANGUP
_FLAGS = getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)


class End(NamedTuple):
    """How a visit ended: greeted or not, and what failed."""

    greeted: bool
    phase: Phase | None = None
    errno: int = 0
    words: str = ""


GREETED = End(greeted=True)
AGAIN = End(greeted=False)
"""No end yet: a UNIX socket's queue is full at the moment, so ask again a little later."""

_RESET_AFTER = End(True, "close", errno.ECONNRESET, "the connection was reset after the greeting")
_OPEN_AFTER = End(True, "close", errno.ETIMEDOUT, "the far end did not close in time")
_SILENT = End(False, "greet", errno.ENODATA, "the connection was closed without a word")
TOO_LONG = End(False, "greet", errno.EMSGSIZE, "the greeting is too long")


def failed(phase: Phase, number: int, words: str = "") -> End:
    """The end of a visit without a greeting; the words are the system's where there are no better ones."""
    return End(False, phase, number, words)


class Visit:
    """A visit in flight: when it was meant to begin and did (monotonic seconds), and what came so far."""

    __slots__ = ("began", "data", "fd", "intended", "session", "sock")

    def __init__(self, sock: socket.SocketType) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.intended = 0.0
        self.began = 0.0
        self.data = b""
        self.session: Any = None


class Asker(Protocol):
    """A way of asking: what differs between the transports."""

    def open(self) -> Visit:
        """A visit with a socket.

        :raises OSError: when there is none to be had.
        """

    def ask(self, visit: Visit) -> End | None:
        """Connect or send: None when that is under way, `AGAIN` to be called again later, or how it failed."""

    def ready(self, visit: Visit, events: int) -> End | None:
        """Something happened on the socket; how the visit ended, or None while it goes on."""

    def late(self, visit: Visit) -> End:
        """The time is over; how the visit ended."""

    def over(self, visit: Visit, *, greeted: bool) -> None:
        """The visit is over: let go of the socket, or keep it for another."""

    def stray(self, fd: int) -> None:
        """Something happened on a socket that is between visits."""

    def close(self) -> None:
        """Let go of what is kept."""


def opened(family: int, kind: int) -> socket.SocketType:
    """A bare socket: the class around it that Python offers takes twice as long to make."""
    sock = socket.SocketType(family, kind | _FLAGS)
    if not _FLAGS:
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    return sock


class Streams:
    """TCP and UNIX: connect and read to the end."""

    first: Phase = "greet"
    """The step that follows connecting."""

    def __init__(self, remote: Remote | str, limit: int, poller: Poller) -> None:
        self._family = socket.AF_UNIX if isinstance(remote, str) else remote.family
        self._to: Any = remote if isinstance(remote, str) else remote.sockaddr
        self._limit = limit
        self._poller = poller

    def open(self) -> Visit:
        """A socket for one visit."""
        return Visit(opened(self._family, socket.SOCK_STREAM))

    def ask(self, visit: Visit) -> End | None:
        """Connect."""
        number = visit.sock.connect_ex(self._to)
        if number not in _UNDER_WAY:
            return AGAIN if number == errno.EAGAIN else failed("connect", number)
        self._poller.register(visit.fd, _READABLE)
        return None

    def ready(self, visit: Visit, events: int) -> End | None:
        """Read what has come."""
        while True:
            try:
                piece = visit.sock.recv(_PIECE)
            except BlockingIOError:
                return None
            except OSError as error:
                return self._broken(visit, error.errno or errno.EIO)
            if not piece:
                return GREETED if visit.data else _SILENT
            visit.data = visit.data + piece if visit.data else piece
            if len(visit.data) > self._limit:
                return TOO_LONG
            if len(piece) < _PIECE:
                return GREETED if events & HANGUP else None

    def _broken(self, visit: Visit, number: int) -> End:
        if visit.data:
            return _RESET_AFTER
        return failed("greet", errno.ECONNRESET) if number in _RESETS else failed("connect", number)

    def late(self, visit: Visit) -> End:
        """What was still to come: the connection, the greeting or the end."""
        if visit.data:
            return _OPEN_AFTER
        if self.connected(visit):
            return failed(self.first, errno.ETIMEDOUT, "no greeting in time")
        return failed("connect", errno.ETIMEDOUT, "no connection in time")

    def connected(self, visit: Visit) -> bool:
        """Whether the connection stands, or stood."""
        try:
            visit.sock.getpeername()
        except OSError:
            return False
        return True

    def over(self, visit: Visit, *, greeted: bool) -> None:
        """Close."""
        visit.sock.close()

    def stray(self, fd: int) -> None:
        """There is nothing between visits: each has a connection of its own."""

    def close(self) -> None:
        """Nothing is kept."""
