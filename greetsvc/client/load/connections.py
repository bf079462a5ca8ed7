"""The probes of a load run over streams, on bare non-blocking sockets.

`Probe` reports each step; here a probe is a few system calls, and does nothing that is not needed to count it.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NamedTuple

from greetsvc.client.load.polling import ERROR, HANGUP, READ, Poller
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.system import read_icmp, system_words
from greetsvc.client.words import CUT_SHORT, ENDINGS, NO_CLOSE_NOTIFY, NO_GREETING, RESET_ERRNOS, Closed, Phase
from greetsvc.net.linux import error_queue

__all__ = ["GREETED", "RETRY", "TOO_LONG", "Connection", "LoadResult", "Streams", "Transport", "ended", "failed"]

_CONNECTING = (0, errno.EINPROGRESS)
_PIECE = 4096
_READABLE = READ | HANGUP
_FLAGS = getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)


class LoadResult(NamedTuple):
    """The result of one probe: greeted or not, and what failed (in phase ``close`` after a greeting).

    ``cut_short``: of the greeting only part came, by all we know.
    """

    greeted: bool
    phase: Phase | None = None
    errno: int = 0
    words: str = ""
    cut_short: bool = False


GREETED = LoadResult(greeted=True)
RETRY = LoadResult(greeted=False)
"""No result yet: the queue of the UNIX socket is full, so start again a little later."""

_ENDED: dict[Closed, tuple[LoadResult, LoadResult]] = {
    closed: (
        LoadResult(True, "close", number, words),
        LoadResult(True, "close", number, f"{CUT_SHORT}: {words}", True),
    )
    for closed, (number, words) in {**ENDINGS, "fin": (errno.EPROTO, NO_CLOSE_NOTIFY)}.items()
}
_NO_GREETING = LoadResult(False, "greet", errno.ENODATA, NO_GREETING)
TOO_LONG = LoadResult(False, "greet", errno.EMSGSIZE, "the greeting is too long")


def failed(phase: Phase, number: int, words: str = "") -> LoadResult:
    """The result of a probe without a greeting; without ``words`` the report shows the system's."""
    return LoadResult(False, phase, number, words)


def ended(data: bytes, closed: Closed) -> LoadResult:
    """The result of a greeting without a proper end: a line end is the only sign that it is whole."""
    return _ENDED[closed][not data.rstrip(b"\0").endswith(b"\n")]


class Connection:
    """A probe in flight: its socket, its intended and its actual start (monotonic seconds), and what came so far.

    ``session`` belongs to the transport; ``nonce`` is that of a datagram request.
    """

    __slots__ = ("data", "fd", "intended", "nonce", "session", "sock", "started")

    def __init__(self, sock: socket.SocketType) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.intended = 0.0
        self.started = 0.0
        self.data = b""
        self.nonce = b""
        self.session: Any = None


class Transport:
    """What streams and datagrams share: by default, each probe has a socket of its own.

    The engine also calls ``start``, ``ready`` when the socket has events, and ``timed_out``. They return the result
    of the probe, or None while it goes on; ``start`` also `RETRY`, to be called again later.
    """

    kind: socket.SocketKind

    def __init__(self, remote: SocketAddress | str, limit: int, poller: Poller) -> None:
        self._family = socket.AF_UNIX if isinstance(remote, str) else remote.family
        self._to: Any = remote if isinstance(remote, str) else remote.sockaddr
        self._limit = limit
        self._poller = poller
        has_queue = error_queue.AVAILABLE and self._family != socket.AF_UNIX
        self._error_queue = error_queue.options(self._family) if has_queue else []

    def open(self) -> Connection:
        """A connection with a socket: bare, because ``socket.socket``, the class around it, takes twice as long.

        :raises OSError: when the system gives none.
        """
        sock = socket.SocketType(self._family, self.kind | _FLAGS)
        if not _FLAGS:
            sock.setblocking(False)
            os.set_inheritable(sock.fileno(), False)
        for option in self._error_queue:
            sock.setsockopt(*option, 1)
        return Connection(sock)

    def _failed(self, connection: Connection, phase: Phase, number: int) -> LoadResult:
        """The result when the system reported an errno; with the ICMP message behind it, if there is one."""
        if not self._error_queue:
            return failed(phase, number)
        queued, icmp = read_icmp(connection.sock, self._to)
        number = queued or number
        return failed(phase, number, system_words(number, icmp, host=self._to[0]))

    def release(self, connection: Connection, *, greeted: bool) -> None:
        """The probe is over: close the socket, or keep it for another probe."""
        connection.sock.close()

    def idle_ready(self, fd: int) -> None:
        """Handle events of a socket that is kept between two probes."""

    def close(self) -> None:
        """Close the sockets that are kept."""


class Streams(Transport):
    """TCP and UNIX streams: connect and read to the end."""

    kind = socket.SOCK_STREAM
    after_connect: Phase = "greet"
    """The step that follows connecting."""

    def start(self, connection: Connection) -> LoadResult | None:
        """Connect."""
        number = connection.sock.connect_ex(self._to)
        if number not in _CONNECTING:
            return RETRY if number == errno.EAGAIN else self._failed(connection, "connect", number)
        self._poller.register(connection.fd, _READABLE)
        return None

    def ready(self, connection: Connection, events: int) -> LoadResult | None:
        """Read what has come."""
        while True:
            try:
                piece = connection.sock.recv(_PIECE)
            except BlockingIOError:
                return self._broken(connection, 0) if events & ERROR else None
            except OSError as error:
                return self._broken(connection, error.errno or errno.EIO)
            if not piece:
                return GREETED if connection.data else _NO_GREETING
            connection.data = connection.data + piece if connection.data else piece
            if len(connection.data) > self._limit:
                return TOO_LONG
            if len(piece) < _PIECE:
                return GREETED if events & HANGUP else None

    def _broken(self, connection: Connection, number: int) -> LoadResult | None:
        if number not in RESET_ERRNOS:
            result = self._failed(connection, "connect", number)
            # An ICMP error does not end a connection that stands (RFC 1122 4.2.3.9): reading it has cleared it.
            return None if not result.errno or _is_connected(connection) else result
        return ended(connection.data, "reset") if connection.data else failed("greet", errno.ECONNRESET)

    def timed_out(self, connection: Connection) -> LoadResult:
        """What was missing: the connection, the greeting or the end."""
        if connection.data:
            return ended(connection.data, "timeout")
        if not _is_connected(connection):
            return failed("connect", errno.ETIMEDOUT, "no connection in time")
        return failed(self.after_connect, errno.ETIMEDOUT, "no greeting in time")


def _is_connected(connection: Connection) -> bool:
    try:
        connection.sock.getpeername()
    except OSError:
        return False
    return True
