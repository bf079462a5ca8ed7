"""One probe over datagrams: ask, ask again while there is time, take the answer from the address that was asked."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.path import is_ours
from greetsvc.client.probe.resolve import Remote
from greetsvc.client.probe.timeline import Progress
from greetsvc.client.result import ECHO
from greetsvc.client.sent import read_datagram
from greetsvc.net.linux import error_queue as errqueue
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import MARK, nonce_of

__all__ = ["DatagramReactor", "ask_udp", "ask_unixgram"]

_FIRST_REPEAT = 0.5
"""Seconds until the request is sent again; each further wait is twice as long (RFC 8085 3.1.1 begins at 1 s)."""

_BUSY_REPEAT = 0.05
"""Seconds until a request is sent again that the system had no room for (a UNIX receiver with a full queue)."""

_NO_ROOM = frozenset([errno.EAGAIN, errno.ENOBUFS])


class DatagramReactor(IReactorTime, IReactorFDSet):
    """What asking over datagrams needs of a reactor."""


@implementer(IReadDescriptor)
class _DatagramProbe:
    """One socket of its own for one probe.

    Twisted's connected UDP port dies under epoll at a port unreachable without a word: epoll then reports an error
    and nothing to read, and the reactor takes that for the end. Here it is what makes us look at the error.
    """

    def __init__(
        self, progress: Progress, sock: socket.socket, remote: Remote | None, limit: int, reactor: DatagramReactor
    ) -> None:
        self.answer: Deferred[bytes] = Deferred(lambda _: self._close())
        self._progress = progress
        self._socket = sock
        self._remote = remote
        self._limit = limit
        self._reactor = reactor
        self._again: IDelayedCall | None = None
        self._sent = 0
        self._request = b""
        self._timer = reactor.callLater(progress.remaining(), self._too_late)
        reactor.addReader(self)

    def send(self, request: bytes, wait: float = _FIRST_REPEAT) -> None:
        """Ask, and arrange to ask again."""
        self._request = request
        try:
            if self._remote is None:
                self._socket.send(request)
            else:
                self._socket.sendto(request, self._remote.sockaddr)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._blame(error.errno or errno.EIO)
                return
            self._again = self._reactor.callLater(_BUSY_REPEAT, self.send, request, wait)
            return
        self._sent += 1
        start = one_line(request[:25].decode("latin-1"))
        self._progress.say(">", f"{start}… ({len(request)} bytes{', again' if self._sent > 1 else ''})")
        self._again = self._reactor.callLater(wait, self.send, request, 2 * wait)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "greet"

    def doRead(self) -> None:
        try:
            data, _, flags, sender = self._socket.recvmsg(self._limit + 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._look_at_errors(error.errno or errno.EIO)
            return
        if self._remote is not None and not _same(sender, self._remote.sockaddr):
            self._progress.note(f"an answer came from {sender[0]} port {sender[1]}, which was not asked")
        elif len(data) > self._limit or flags & socket.MSG_TRUNC:
            self._finish(self._progress.failed(errno.EMSGSIZE, f"the answer is longer than {self._limit} bytes"))
        elif not data:
            self._finish(self._progress.failed(errno.ENODATA, "the answer is empty"))
        elif data.startswith(MARK):
            self._finish(self._progress.failed(errno.EPROTO, ECHO))
        elif not is_ours(data, nonce_of(self._request)):
            self._progress.note("an answer came that names another request than ours")
        else:
            self._progress.first_byte()
            self._finish(data)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error on the socket and has let go of it."""
        self._look_at_errors(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if not self.answer.called:
            self._reactor.addReader(self)

    def _look_at_errors(self, number: int) -> None:
        """Give up at what ICMP said; a request that was too long for the path is cut and sent again by itself."""
        offender = None
        if self._remote is not None and errqueue.AVAILABLE:
            for entry in errqueue.read(self._socket):
                number, offender = entry.errno, entry.offender or offender
        if number not in (0, errno.EMSGSIZE):
            self._blame(number, offender)

    def _blame(self, number: int, offender: str | None = None) -> None:
        said = f", says {offender}" if offender else ""
        self._finish(self._progress.failed(number, os.strerror(number) + said))

    def _too_late(self) -> None:
        times = "once" if self._sent == 1 else f"{self._sent} times"
        why = f"no answer within {self._progress.timeout:g} s, asked {times}"
        self._finish(self._progress.failed(errno.ETIMEDOUT, why))

    def _finish(self, result: bytes | Exception) -> None:
        self._close()
        if isinstance(result, Exception):
            self.answer.errback(result)
        else:
            self.answer.callback(result)

    def _close(self) -> None:
        for call in (self._timer, self._again):
            if call is not None and call.active():
                call.cancel()
        self._reactor.removeReader(self)
        self._socket.close()


def _same(sender: Any, asked: tuple[Any, ...]) -> bool:
    """Whether an answer comes from the host and port that were asked, on the same link where that matters."""
    same = tuple(sender[:2]) == asked[:2]
    return same and (len(asked) < 4 or asked[3] in (0, sender[3]))


async def ask_udp(
    progress: Progress,
    remote: Remote,
    request: bytes,
    limit: int,
    reactor: DatagramReactor,
    *,
    queued: bool | None = None,
) -> bytes:
    """Send ``request`` and return the answer's bytes.

    Where the system queues ICMP errors (Linux) the socket is left unconnected, so that answers from elsewhere are
    seen; ``queued`` False connects it all the same, as elsewhere.

    :raises GreetFailed: when there is none.
    """
    progress.peer = remote.address
    progress.enter("greet")
    sock = socket.socket(remote.family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    to: Remote | None = remote
    try:
        progress.outgoing.prepare(sock)
        if errqueue.AVAILABLE if queued is None else queued:
            errqueue.turn_on(sock)
        else:
            sock.connect(remote.sockaddr)
            to = None
    except OSError as error:
        sock.close()
        raise progress.failed(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO)) from None
    probe = _DatagramProbe(progress, sock, to, limit, reactor)
    probe.send(request)
    progress.sent = read_datagram(sock, remote.address, remote.sockaddr, nonce_of(request))
    return await probe.answer


async def ask_unixgram(
    progress: Progress,
    path: str,
    request: bytes,
    limit: int,
    reactor: DatagramReactor,
    *,
    nameless: bool = sys.platform == "linux",
) -> bytes:
    """Send ``request`` to a UNIX datagram socket and return the answer's bytes.

    To be answered one needs an address: Linux gives an abstract one; elsewhere (``nameless`` False) it is a path in a
    temporary folder, which is removed. Connecting has the system keep the answers of others away.

    :raises GreetFailed: when there is none.
    """
    progress.peer = Address(path, 0)
    progress.enter("connect")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    folder = None if nameless else tempfile.TemporaryDirectory(prefix="greet-")
    try:
        sock.bind("" if folder is None else str(Path(folder.name) / "answer"))
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise progress.failed(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO)) from None
        progress.leave()
        progress.enter("greet")
        probe = _DatagramProbe(progress, sock, None, limit, reactor)
        probe.send(request)
        return await probe.answer
    finally:
        if folder is not None:
            folder.cleanup()
