"""A visit of a load run over datagrams: a request, and its answer."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

from greetsvc.client.load.connections import AGAIN, GREETED, TOO_LONG, End, Visit, failed, opened
from greetsvc.client.load.polling import READ, Poller
from greetsvc.client.probe.resolve import Remote
from greetsvc.client.result import ECHO, Phase
from greetsvc.errors import ConfigError
from greetsvc.wire import MARK

__all__ = ["Datagrams"]

_NO_ROOM = (errno.EAGAIN, errno.ENOBUFS)
_EMPTY = End(False, "greet", errno.ENODATA, "the answer is empty")
_ECHO = End(False, "greet", errno.EPROTO, ECHO)
_STRAYS = 16
"""So many datagrams that nobody asked for, and a socket is not worth keeping."""


class Datagrams:
    """UDP and UNIX datagrams: one request, one answer, nothing sent twice.

    A socket whose answer came is kept for another visit, as a busy peer would; one that was given up is closed, so
    that an answer which comes too late meets nobody. What comes between visits, such as the copy of an answer, is
    thrown away, and looked for before each. Sockets are connected: what ICMP says of a request is its end.
    """

    def __init__(self, remote: Remote | str, request: bytes, limit: int, poller: Poller) -> None:
        self._local = isinstance(remote, str)
        self._family = socket.AF_UNIX if isinstance(remote, str) else remote.family
        self._to: Any = remote if isinstance(remote, str) else remote.sockaddr
        self._request = request
        self._limit = limit
        self._poller = poller
        self._kept: dict[int, Visit] = {}
        if self._local and sys.platform != "linux":
            raise ConfigError("a load of UNIX datagrams needs Linux", name="duration", value=f"unixgram:{remote}")

    def open(self) -> Visit:
        """The socket that was kept longest and is sound, or a new one."""
        while self._kept:
            fd = next(iter(self._kept))
            self.stray(fd)
            if fd in self._kept:
                return self._kept.pop(fd)
        visit = Visit(opened(self._family, socket.SOCK_DGRAM))
        if self._local:
            visit.sock.bind("")  # an abstract address (Linux), or there would be none to answer
        return visit

    def ask(self, visit: Visit) -> End | None:
        """Send the request."""
        phase: Phase = "greet"
        try:
            if not visit.session:
                phase = "connect"
                visit.sock.connect(self._to)
                self._poller.register(visit.fd, READ)
                visit.session = phase = "greet"
            visit.sock.send(self._request)
        except OSError as error:
            return AGAIN if error.errno in _NO_ROOM else failed(phase, error.errno or errno.EIO)
        return None

    def ready(self, visit: Visit, events: int) -> End | None:
        """Take the answer, or what ICMP said."""
        try:
            visit.data = visit.sock.recv(self._limit + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            return failed("greet", error.errno or errno.EIO)
        if len(visit.data) > self._limit:
            return TOO_LONG
        if visit.data.startswith(MARK):
            return _ECHO
        return GREETED if visit.data else _EMPTY

    def late(self, visit: Visit) -> End:
        """No answer came."""
        return failed("greet", errno.ETIMEDOUT, "no answer in time")

    def over(self, visit: Visit, *, greeted: bool) -> None:
        """Keep the socket when its answer came."""
        if greeted:
            self._kept[visit.fd] = visit
        else:
            visit.sock.close()

    def stray(self, fd: int) -> None:
        """Throw away what came for nobody; a socket that failed, or does not become silent, goes with it."""
        sock = self._kept[fd].sock
        try:
            for _ in range(_STRAYS):
                sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._kept.pop(fd).sock.close()

    def close(self) -> None:
        """Close the sockets that were kept."""
        for visit in self._kept.values():
            visit.sock.close()
        self._kept.clear()
