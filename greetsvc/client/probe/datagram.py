"""One probe over datagrams: send the request, send it again until the time-out, take the answer of the target."""

from __future__ import annotations

import errno
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.icmp import Icmp
from greetsvc.client.path import answers_request
from greetsvc.client.probe.resolve import SocketAddress
from greetsvc.client.probe.sockets import prepare, read_datagram
from greetsvc.client.probe.system import no_port, read_icmp, system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import ECHO, EMPTY_ANSWER, NO_BUFFER_ERRNOS, OTHER_ADDRESS
from greetsvc.net.linux import error_queue
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import MARK, nonce_of

__all__ = ["DescriptorReactor", "probe_udp", "probe_unixgram"]

_FIRST_REPEAT = 0.5
"""Seconds until the request is sent again; each further wait is twice as long (RFC 8085 3.1.1 begins at 1 s)."""

_NO_BUFFER_REPEAT = 0.05
"""Seconds until a request is sent again for which the system had no buffer."""


class DescriptorReactor(IReactorTime, IReactorFDSet):
    """What a probe of datagrams, or a load run, needs of a reactor."""


@implementer(IReadDescriptor)
class _DatagramProbe:
    """The socket of one probe, as the reactor sees it.

    Twisted's connected UDP port stops reading, without a word, when an ICMP port unreachable comes under epoll: epoll
    reports an error and nothing to read, and the reactor takes that for the end. Here `connectionLost` then reads
    the error.
    """

    def __init__(
        self,
        timeline: Timeline,
        sock: socket.socket,
        remote: SocketAddress | None,
        reactor: DescriptorReactor,
        other: Callable[[], socket.socket | None] = lambda: None,
    ) -> None:
        self.answer: Deferred[bytes] = Deferred(lambda _: self._close())
        self._timeline = timeline
        self._socket = sock
        self._remote = remote
        self._reactor = reactor
        self._other = other
        self._repeat: IDelayedCall | None = None
        self._sent = 0
        self._request = b""
        self._timer = reactor.callLater(timeline.remaining(), self._time_out)
        reactor.addReader(self)

    def send(self, request: bytes, wait: float = _FIRST_REPEAT) -> None:
        """Send the request now, and again after ``wait`` seconds."""
        self._request = request
        if self._sent == 1:
            self._use_other()
        try:
            if self._remote is None:
                self._socket.send(request)
            else:
                self._socket.sendto(request, self._remote.sockaddr)
        except OSError as error:
            number = error.errno or errno.EIO
            if no_port(self._socket, number):
                number = errno.EADDRNOTAVAIL
            if number not in NO_BUFFER_ERRNOS:
                self._fail(number)
                return
            self._repeat = self._reactor.callLater(_NO_BUFFER_REPEAT, self.send, request, wait)
            return
        self._sent += 1
        start = one_line(request[:25].decode("latin-1"))
        self._timeline.trace(">", f"{start}… ({len(request)} bytes{', again' if self._sent > 1 else ''})")
        self._repeat = self._reactor.callLater(wait, self.send, request, 2 * wait)

    def _use_other(self) -> None:
        """Repeat the request from the socket that ``other`` makes, if it makes one."""
        other, self._other = self._other(), lambda: None
        if other is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = other
            self._reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "greet"

    def doRead(self) -> None:
        timeline, limit = self._timeline, self._timeline.options.limit
        try:
            data, _, flags, sender = self._socket.recvmsg(limit + 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._read_errors(error.errno or errno.EIO)
            return
        if self._remote is not None and not _same(sender, self._remote.sockaddr):
            timeline.note(f"{OTHER_ADDRESS}: {sender[0]} port {sender[1]}")
        elif len(data) > limit or flags & socket.MSG_TRUNC:
            self._finish(timeline.failed(errno.EMSGSIZE, f"the answer is longer than {limit} bytes"))
        elif not data:
            self._finish(timeline.failed(errno.ENODATA, EMPTY_ANSWER))
        elif data.startswith(MARK):
            self._finish(timeline.failed(errno.EPROTO, ECHO))
        elif not answers_request(data, nonce_of(self._request)):
            timeline.note("an answer to another request came")
        else:
            timeline.first_byte()
            self._finish(data)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error on the socket and has stopped watching it; go on if it was harmless."""
        self._read_errors(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if not self.answer.called:
            self._reactor.addReader(self)

    def _read_errors(self, number: int) -> None:
        """Fail with what ICMP reported. After "too long" the system fragments: the repeated request may pass."""
        icmp = None
        if self._remote is not None:
            queued, icmp = read_icmp(self._socket, self._remote.sockaddr)
            number = queued or number
        if number not in (0, errno.EMSGSIZE):
            self._fail(number, icmp)

    def _fail(self, number: int, icmp: Icmp | None = None) -> None:
        self._finish(system_failed(self._timeline, number, icmp))

    def _time_out(self) -> None:
        requests = "1 request" if self._sent == 1 else f"{self._sent} requests"
        self._finish(self._timeline.failed(errno.ETIMEDOUT, f"no answer to {requests} {self._timeline.within}"))

    def _finish(self, result: bytes | Exception) -> None:
        self._close()
        if isinstance(result, Exception):
            self.answer.errback(result)
        else:
            self.answer.callback(result)

    def _close(self) -> None:
        for call in (self._timer, self._repeat):
            if call is not None and call.active():
                call.cancel()
        self._reactor.removeReader(self)
        self._socket.close()


def _same(sender: Any, remote: tuple[Any, ...]) -> bool:
    """Whether an answer comes from the target's host and port, and for a link-local address from the same link."""
    return tuple(sender[:2]) == remote[:2] and (len(remote) < 4 or remote[3] in (0, sender[3]))


def _open(timeline: Timeline, family: int) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise system_failed(timeline, error.errno or errno.EIO) from None
    sock.setblocking(False)
    return sock


async def probe_udp(
    timeline: Timeline,
    remote: SocketAddress,
    request: bytes,
    reactor: DescriptorReactor,
    *,
    queued: bool = error_queue.AVAILABLE,
) -> bytes:
    """Send ``request`` and return the answer.

    With ``queued`` (Linux) the socket stays unconnected, so that answers from other addresses are seen and reported;
    IP_RECVERR then queues the ICMP errors, which an unconnected socket would not get otherwise. Elsewhere only a
    connected socket gets them.

    :raises GreetFailed: when there is no answer.
    """
    timeline.peer = remote.address
    timeline.enter("greet")
    sock = _open(timeline, remote.family)
    try:
        prepare(sock, timeline.options)
        if queued:
            error_queue.turn_on(sock)
        else:
            sock.connect(remote.sockaddr)
    except OSError as error:
        number = errno.EADDRNOTAVAIL if no_port(sock, error.errno or 0) else error.errno or errno.EIO
        sock.close()
        raise system_failed(timeline, number) from None
    probe = _DatagramProbe(timeline, sock, remote if queued else None, reactor)
    probe.send(request)
    timeline.sent = read_datagram(sock, remote.address, remote.sockaddr, nonce_of(request))
    return await probe.answer


async def probe_unixgram(
    timeline: Timeline,
    path: str,
    request: bytes,
    reactor: DescriptorReactor,
    *,
    abstract: bool = sys.platform == "linux",
) -> bytes:
    """Send ``request`` to a UNIX datagram socket and return the answer.

    Our socket needs an address to be answered: an ``abstract`` one on Linux; elsewhere a path in a temporary folder,
    which is removed. It is connected, so that the system drops datagrams of other senders.

    An abstract address exists in one network namespace only (unix(7)). A server in another one, as in two containers
    that share the folder of the socket, cannot answer to it. So the request is repeated from a path beside the
    socket of the server: the shared folder is the only one that both see. That works where both see it under the
    same path.

    :raises GreetFailed: when there is no answer.
    """
    beside = Path(f"{path}.{secrets.token_hex(4)}").absolute()

    def at_beside() -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.bind(str(beside))
            # The server may be another user. Only its answers pass, as the socket is connected.
            beside.chmod(0o666)
            sock.connect(path)
        except OSError as error:
            sock.close()
            timeline.note(f"no answer address at {one_line(str(beside))}: {error.strerror or error}")
            return None
        timeline.trace("*", f"the answer address is now {one_line(str(beside))}")
        return sock

    timeline.peer = Address(path, 0)
    timeline.enter("connect")
    sock = _open(timeline, socket.AF_UNIX)
    folder = None if abstract else tempfile.TemporaryDirectory(prefix="greet-")
    try:
        sock.bind("" if folder is None else str(Path(folder.name) / "answer"))
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise system_failed(timeline, error.errno or errno.EIO) from None
        timeline.leave()
        timeline.enter("greet")
        probe = _DatagramProbe(timeline, sock, None, reactor, at_beside if abstract else lambda: None)
        probe.send(request)
        return await probe.answer
    finally:
        with suppress(OSError):
            beside.unlink()
        if folder is not None:
            folder.cleanup()
