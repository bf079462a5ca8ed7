"""The probes of a load run over datagrams: a request and its answer."""

from __future__ import annotations

import errno
import socket
import sys

from greetsvc.client.load.connections import GREETED, RETRY, TOO_LONG, Connection, LoadResult, Transport, failed
from greetsvc.client.load.polling import READ, Poller
from greetsvc.client.probe.resolve import SocketAddress
from greetsvc.client.probe.system import no_port
from greetsvc.client.result import ECHO, EMPTY_ANSWER, NO_BUFFER_ERRNOS, Phase
from greetsvc.errors import ConfigError
from greetsvc.wire import MARK

__all__ = ["Datagrams"]

_EMPTY = LoadResult(False, "greet", errno.ENODATA, EMPTY_ANSWER)
_ECHO = LoadResult(False, "greet", errno.EPROTO, ECHO)
_MAX_STRAYS = 16
"""A kept socket on which this many datagrams wait is closed rather than emptied."""


class Datagrams(Transport):
    """UDP and UNIX datagrams: one request, one answer, nothing sent twice.

    A socket whose answer came is kept for another probe, as a busy peer would; after a time-out it is closed, so that
    a late answer cannot be taken for that of the next probe. What comes between two probes, such as the copy of an
    answer, is thrown away before the socket is used again. Sockets are connected, so an ICMP error ends the probe.
    """

    kind = socket.SOCK_DGRAM

    def __init__(self, remote: SocketAddress | str, request: bytes, limit: int, poller: Poller) -> None:
        super().__init__(remote, limit, poller)
        self._request = request
        self._kept: dict[int, Connection] = {}
        if isinstance(remote, str) and sys.platform != "linux":
            why = "a load run over UNIX datagrams needs Linux"
            raise ConfigError(why, name="duration", value=f"unixgram:{remote}")

    def open(self) -> Connection:
        """The usable socket that was kept longest, or a new one."""
        while self._kept:
            fd = next(iter(self._kept))
            self.idle_ready(fd)
            if fd in self._kept:
                return self._kept.pop(fd)
        connection = super().open()
        if self._family == socket.AF_UNIX:
            connection.sock.bind("")  # an abstract address (Linux): the server needs one to answer to
        return connection

    def start(self, connection: Connection) -> LoadResult | None:
        """Send the request."""
        phase: Phase = "greet"
        try:
            if not connection.session:
                phase = "connect"
                connection.sock.connect(self._to)
                self._poller.register(connection.fd, READ)
                connection.session = phase = "greet"
            connection.sock.send(self._request)
        except OSError as error:
            number = error.errno or errno.EIO
            if no_port(connection.sock, number):
                number = errno.EADDRNOTAVAIL
            return RETRY if number in NO_BUFFER_ERRNOS else self._failed(connection, phase, number)
        return None

    def ready(self, connection: Connection, events: int) -> LoadResult | None:
        """Take the answer, or the error that ICMP reported."""
        try:
            connection.data = connection.sock.recv(self._limit + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._failed(connection, "greet", error.errno or errno.EIO)
        if len(connection.data) > self._limit:
            return TOO_LONG
        if connection.data.startswith(MARK):
            return _ECHO
        return GREETED if connection.data else _EMPTY

    def timed_out(self, connection: Connection) -> LoadResult:
        """No answer came."""
        return failed("greet", errno.ETIMEDOUT, "no answer in time")

    def release(self, connection: Connection, *, greeted: bool) -> None:
        """Keep the socket when its answer came."""
        if greeted:
            self._kept[connection.fd] = connection
        else:
            connection.sock.close()

    def idle_ready(self, fd: int) -> None:
        """Throw away what came between two probes; close a socket that failed or has too much of it."""
        sock = self._kept[fd].sock
        try:
            for _ in range(_MAX_STRAYS):
                sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._kept.pop(fd).sock.close()

    def close(self) -> None:
        """Close the sockets that were kept."""
        for connection in self._kept.values():
            connection.sock.close()
        self._kept.clear()
