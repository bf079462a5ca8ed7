"""The probes of a load run over datagrams: a request and its answer."""

from __future__ import annotations

import errno
import socket
import sys

from greetsvc.client.load.connections import GREETED, RETRY, TOO_LONG, Connection, LoadResult, Transport, failed
from greetsvc.client.load.metrics import Strays
from greetsvc.client.load.polling import READ, Poller
from greetsvc.client.load.requests import Requests
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.datagram.history import ANCILLARY
from greetsvc.client.probe.system import no_port
from greetsvc.client.words import ECHO, EMPTY_ANSWER, NO_BUFFER_ERRNOS, Phase
from greetsvc.errors import ConfigError
from greetsvc.net.linux.packets import ask_for_headers
from greetsvc.wire import MARK, MAX_MEASURED

__all__ = ["Datagrams"]

_EMPTY = LoadResult(False, "greet", errno.ENODATA, EMPTY_ANSWER)
_ECHO = LoadResult(False, "greet", errno.EPROTO, ECHO)
_SILENCE = "no answer in time"
_UNIX_SILENCE = f"{_SILENCE}; none can come from a server in another network namespace"
"""A single probe has an answer address beside the socket of the server; the many of a run have abstract ones."""
_NOTHING: list[tuple[int, int, bytes]] = []
_ANSWERED, _LATE = "answered", "late"
"""What `Connection.session` says of a socket that is kept; a socket that is not connected yet has none."""

_MAX_KEPT = 4096
"""Sockets that are kept open after their probes. One is used again only when that many others were used since."""
_MIN_KEPT = 256
"""Where fewer can be kept, none is: a copy of an answer might still be on its way when its socket is used again."""


class Datagrams(Transport):
    """UDP and UNIX datagrams: one request of ``requests``, one answer, nothing sent twice.

    A greeting does not say which request it answers: only the socket that it reaches does. But a new socket for each
    probe costs 25 µs of CPU, a kept one 12.7. So the ``keep`` latest sockets stay open after their probes, and then
    the oldest is used again: a copy of its answer had the time of ``keep`` other probes to come. What comes on a
    kept socket is counted in ``strays``; from the first of these on, no socket is used twice, and one whose answer is
    missing never is. Sockets are connected, so an ICMP error ends the probe.
    """

    kind = socket.SOCK_DGRAM

    def __init__(
        self, remote: SocketAddress | str, requests: Requests, limit: int, poller: Poller, keep: float = _MAX_KEPT
    ) -> None:
        super().__init__(remote, limit, poller)
        self._requests = requests
        self._keep = 0 if keep < _MIN_KEPT else int(min(keep, _MAX_KEPT))
        self._kept: dict[int, Connection] = {}
        self.strays = Strays()
        if isinstance(remote, str) and sys.platform != "linux":
            why = "a load run over UNIX datagrams needs Linux"
            raise ConfigError(why, name="duration", value=f"unixgram:{remote}")

    def open(self) -> Connection:
        """The socket that was kept longest, if it may be used again, or a new one."""
        if self._kept and len(self._kept) >= self._keep:
            fd = next(iter(self._kept))
            self.idle_ready(fd)
            if oldest := self._kept.pop(fd, None):
                if oldest.session == _ANSWERED and not self.strays:
                    return oldest
                oldest.sock.close()
        connection = super().open()
        if self._requests.session is not None:
            ask_for_headers(connection.sock)
        if self._family == socket.AF_UNIX:
            connection.sock.bind("")  # an abstract address (Linux): the server needs one to answer to
        return connection

    def start(self, connection: Connection) -> LoadResult | None:
        """Send the request."""
        phase: Phase = "greet"
        connection.nonce, request = self._requests.make()
        try:
            if not connection.session:
                phase = "connect"
                connection.sock.connect(self._to)
                self._poller.register(connection.fd, READ)
                phase = "greet"
                connection.session = _ANSWERED
            connection.sock.send(request)
        except OSError as error:
            self._requests.unsent(connection.nonce)
            number = error.errno or errno.EIO
            if no_port(connection.sock, number):
                number = errno.EADDRNOTAVAIL
            return RETRY if number in NO_BUFFER_ERRNOS else self._failed(connection, phase, number)
        return None

    def ready(self, connection: Connection, events: int) -> LoadResult | None:
        """Take the answer, or the error that ICMP reported."""
        requests, ancillary = self._requests, _NOTHING
        try:
            if requests.session is None:
                connection.data = connection.sock.recv(self._limit + 1)
            else:
                connection.data, ancillary, *_ = connection.sock.recvmsg(self._limit + 1, ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            requests.refused(connection.nonce)
            return self._failed(connection, "greet", error.errno or errno.EIO)
        if len(connection.data) > self._limit:
            return TOO_LONG
        if connection.data.startswith(MARK):
            return _ECHO
        if not connection.data:
            return _EMPTY
        return GREETED if requests.answers(connection.nonce, connection.data, ancillary) else None

    def timed_out(self, connection: Connection) -> LoadResult:
        """No answer came; one that comes late is counted."""
        connection.session = _LATE
        self._requests.over(connection.nonce)
        return failed("greet", errno.ETIMEDOUT, _SILENCE if self._family != socket.AF_UNIX else _UNIX_SILENCE)

    def release(self, connection: Connection, *, greeted: bool) -> None:
        """Keep the socket when its answer came or may still come."""
        if self._keep and (greeted or connection.session == _LATE):
            self._kept[connection.fd] = connection
        else:
            connection.sock.close()

    def idle_ready(self, fd: int) -> None:
        """Count what came after a probe, and close its socket."""
        connection = self._kept[fd]
        try:
            data, ancillary, *_ = connection.sock.recvmsg(MAX_MEASURED + 1, ANCILLARY)
        except BlockingIOError:
            return
        except OSError:
            self._requests.refused(connection.nonce)
        else:
            self._requests.answers(connection.nonce, data, ancillary)
            self.strays.add(late=connection.session == _LATE)
        self._kept.pop(fd).sock.close()

    def close(self) -> None:
        """Close the sockets that were kept."""
        for connection in self._kept.values():
            connection.sock.close()
        self._kept.clear()
