"""One probe over datagrams: send the request, send it again until the time-out, take the answer of the target.

A plain greeting does not say which request it answers; only the socket that it reaches does. So each request leaves
from a socket, and a port, of its own. Where the port is fixed, a request is sent once, and `PortHistory` remembers
what the port has sent before.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.icmp import Icmp
from greetsvc.client.path import Sent
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.requests import (
    FIRST_REPEAT,
    NO_BUFFER_REPEAT,
    UnixSockets,
    answering,
    answers_request,
    fault_of,
    no_answer,
    not_sent_again,
    other_sender,
    same,
    send_request,
    udp_socket,
)
from greetsvc.client.probe.sockets import prepare, read_datagram
from greetsvc.client.probe.system import read_icmp, system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.words import LATE_ANSWER, NO_BUFFER_ERRNOS, OTHER_REQUEST, TWO_ANSWERS
from greetsvc.net.linux import error_queue
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import decode_record, nonce_of

__all__ = ["DescriptorReactor", "PortHistory", "probe_udp", "probe_unixgram"]

_MAX_TOO_LONG = 4
"""Requests from a fixed port, when ICMP says of each that it is too long."""

_LONGEST_DELAY = 10.0
"""Seconds after which an unanswered request from a fixed port is taken for lost."""

_MAX_KEPT = 16
"""Sockets of earlier probes on which a late or a doubled answer is looked for."""


@frozen
class _Kept:
    """The socket of an earlier request: whether its answer came, and the address that answers (None: connected)."""

    sock: socket.socket
    answered: bool
    expected: tuple[Any, ...] | None


@define
class PortHistory:
    """What earlier probes of a series have sent and not seen answered, so that no answer counts for the wrong probe.

    A fixed port cannot tell the answer to this request from a late one to an earlier request. But if this one is
    late, so is that to this request: it then comes as long after this request as the first came after the earlier
    one. So the first answer counts only when no second one has come by then. On a fixed port ``slowest`` (the longest
    time of an answer) does the same for copies of an answer. Times are those of the timeline's clock.

    Sockets with ports of their own are kept, to see whether an answer comes late or twice.
    """

    unanswered: list[float] = field(factory=list)
    slowest: float = 0.0
    kept: deque[_Kept] = field(factory=deque)

    def doubt(self, sent: float, now: float) -> float:
        """How long after it was ``sent`` the answer to a request may still come, when one came ``now``."""
        self.unanswered = [earlier for earlier in self.unanswered if now - earlier < _LONGEST_DELAY]
        late = max((now - earlier for earlier in self.unanswered), default=0.0)
        expected, took = max(late, self.slowest), now - sent
        self.slowest = max(self.slowest / 2, took)
        return 1.25 * expected if expected > took else 0.0

    def keep(self, kept: _Kept) -> None:
        """Keep the socket of a probe that is over."""
        self.kept.append(kept)
        if len(self.kept) > _MAX_KEPT:
            self.kept.popleft().sock.close()

    def strays(self) -> list[str]:
        """What came on the sockets that are kept, in words. A copy of an answer comes soon: it is looked for once."""
        found = []
        for _ in range(len(self.kept)):
            kept = self.kept.popleft()
            try:
                _, sender = kept.sock.recvfrom(1)
            except BlockingIOError:
                if not kept.answered:
                    self.kept.append(kept)
                    continue
            except OSError:
                pass
            else:
                if kept.expected is None or same(sender, kept.expected):
                    found.append(TWO_ANSWERS if kept.answered else LATE_ANSWER)
            kept.sock.close()
        return found

    def close(self) -> None:
        """Close the sockets that are kept."""
        while self.kept:
            self.kept.popleft().sock.close()


class DescriptorReactor(IReactorTime, IReactorFDSet):
    """What a probe of datagrams, or a load run, needs of a reactor."""


@implementer(IReadDescriptor)
class _Attempt:
    """The socket of one request, as the reactor sees it.

    Twisted's connected UDP port stops reading, without a word, when an ICMP port unreachable comes under epoll: epoll
    reports an error and nothing to read, and the reactor takes that for the end. Here `connectionLost` then reads
    the error.
    """

    def __init__(self, probe: _DatagramProbe, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.sent: Sent | None = None
        self._probe = probe

    def fileno(self) -> int:
        return self.sock.fileno()

    def logPrefix(self) -> str:
        return "greet"

    def doRead(self) -> None:
        self._probe.read(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error on the socket and has stopped watching it; go on if it was harmless."""
        self._probe.read_errors(self, self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        self._probe.watch(self)


class _DatagramProbe:
    """The requests of one probe, and the first answer to one of them.

    ``open_socket`` gives the socket of a request; ``remote`` is where unconnected ones send, ``expected`` the address
    that answers. With ``repeats`` off the request is sent once, because its port is fixed.
    """

    def __init__(
        self,
        timeline: Timeline,
        request: bytes,
        reactor: DescriptorReactor,
        open_socket: Callable[[], socket.socket],
        *,
        history: PortHistory | None,
        remote: SocketAddress | None = None,
        repeats: bool = True,
    ) -> None:
        self.answer: Deferred[bytes] = Deferred(lambda _: self._close())
        self._timeline = timeline
        self._request = request
        self._reactor = reactor
        self._open_socket = open_socket
        self._history = PortHistory() if history is None else history
        self._keep = history is not None and repeats
        self._remote = remote
        self._expected = None if remote is None else answering(remote)
        self._repeats = repeats
        self._repeat: IDelayedCall | None = None
        self._attempts: list[_Attempt] = []
        self._unsure: bytes | None = None
        """An answer that counts when no other one comes."""
        self._timer = reactor.callLater(timeline.remaining(), self._time_out)

    def send(self, wait: float = FIRST_REPEAT) -> None:
        """Send the request now, and again after ``wait`` seconds."""
        timeline = self._timeline
        try:
            sock = self._open_socket()
        except OSError as error:
            if self._attempts:
                timeline.note(not_sent_again(error))
            else:
                self._fail(error.errno or errno.EIO)
            return
        if number := send_request(sock, self._request, self._remote):
            if number in NO_BUFFER_ERRNOS:
                self._repeat = self._reactor.callLater(NO_BUFFER_REPEAT, self.send, wait)
            else:
                self._fail(number)
            return
        attempt = _Attempt(self, sock, timeline.sent_request())
        self._attempts.append(attempt)
        start = one_line(self._request[:25].decode("latin-1"))
        again = ", again" if attempt.number else ""
        timeline.trace(">", f"{start}… ({len(self._request)} bytes{again})")
        self._reactor.addReader(attempt)
        if self._repeats:
            self._repeat = self._reactor.callLater(wait, self.send, 2 * wait)
        if self._remote is not None:
            remote = self._remote
            attempt.sent = read_datagram(sock, remote.address, remote.sockaddr, nonce_of(self._request))
            timeline.sent = attempt.sent

    def watch(self, attempt: _Attempt) -> None:
        """Have the reactor watch a socket again, unless the probe is over or the socket is closed."""
        if not self.answer.called and attempt in self._attempts:
            self._reactor.addReader(attempt)

    def read(self, attempt: _Attempt) -> None:
        """Take what came on the socket of one request."""
        timeline, limit = self._timeline, self._timeline.options.limit
        try:
            data, _, flags, sender = attempt.sock.recvmsg(limit + 1)
        except BlockingIOError:
            return
        except OSError as error:
            self.read_errors(attempt, error.errno or errno.EIO)
            return
        if self._expected is not None and not same(sender, self._expected):
            timeline.note(other_sender(sender))
        elif fault := fault_of(data, limit, cut=bool(flags & socket.MSG_TRUNC)):
            self._finish(timeline.failed(*fault))
        elif not answers_request(data, nonce_of(self._request)):
            timeline.note(OTHER_REQUEST)
        elif self._unsure is not None:
            self._second_answer()
        else:
            self._take(attempt, data)

    def _take(self, attempt: _Attempt, data: bytes) -> None:
        """Take an answer; on a fixed port, one that may be to another request waits until that is refuted."""
        timeline = self._timeline
        sent, now = timeline.answered(attempt.number)
        timeline.sent = attempt.sent
        if self._expected is not None:
            timeline.peer = SocketAddress(0, self._expected).address
        self._note_strays()
        named = decode_record(data) is not None and nonce_of(self._request) is not None
        doubt = 0.0 if self._repeats or named else self._history.doubt(sent, now)
        if not doubt:
            self._finish(data)
            return
        self._unsure = data
        self._timer.cancel()
        self._timer = self._reactor.callLater(sent + doubt - now, self._believe)

    def _believe(self) -> None:
        """No second answer came: the earlier requests were lost."""
        assert self._unsure is not None
        self._history.unanswered.clear()
        self._finish(self._unsure)

    def _second_answer(self) -> None:
        """Two answers came on a fixed port: the first was to an earlier request, or one is a copy."""
        timeline, history = self._timeline, self._history
        assert self._unsure is not None
        sent, came = timeline.withdraw_answer()
        if not history.unanswered:
            timeline.note(TWO_ANSWERS)
            self._finish(self._unsure)
            return
        timeline.note(f"{LATE_ANSWER}, after {came - history.unanswered[0]:.3g} s")
        history.unanswered = [*history.unanswered, sent][2:]
        self._finish(timeline.failed(errno.ETIMEDOUT, f"no answer to this request {timeline.within}"))

    def _note_strays(self) -> None:
        for stray in self._history.strays():
            self._timeline.note(stray)

    def read_errors(self, attempt: _Attempt, number: int) -> None:
        """Fail with what ICMP reported. After "too long" the system fragments: the repeated request may pass."""
        icmp = None
        if self._remote is not None:
            queued, icmp = read_icmp(attempt.sock, self._remote.sockaddr)
            number = queued or number
        if number not in (0, errno.EMSGSIZE):
            self._fail(number, icmp)
        elif number and not self._repeats and len(self._timeline.attempts) < _MAX_TOO_LONG:
            self._close_sockets()  # the request is known to be lost, so no answer to it can come
            self.send()

    def _fail(self, number: int, icmp: Icmp | None = None) -> None:
        self._finish(system_failed(self._timeline, number, icmp))

    def _time_out(self) -> None:
        timeline = self._timeline
        count = len(timeline.attempts)
        if not self._repeats:
            self._history.unanswered += [timeline.sent_at(attempt.number) for attempt in self._attempts]
        self._note_strays()
        self._finish(timeline.failed(errno.ETIMEDOUT, no_answer(count, timeline.within)))

    def _finish(self, result: bytes | Exception) -> None:
        if self._keep:
            answered = [attempt.seconds is not None for attempt in self._timeline.attempts]
            # What comes to a request that was sent after the answered one is neither late nor a copy.
            for attempt in self._attempts[: answered.index(True) + 1 if True in answered else None]:
                self._reactor.removeReader(attempt)
                self._attempts.remove(attempt)
                self._history.keep(_Kept(attempt.sock, answered[attempt.number], self._expected))
        self._close()
        if isinstance(result, Exception):
            self.answer.errback(result)
        else:
            self.answer.callback(result)

    def _close(self) -> None:
        for call in (self._timer, self._repeat):
            if call is not None and call.active():
                call.cancel()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for attempt in self._attempts:
            self._reactor.removeReader(attempt)
            attempt.sock.close()
        self._attempts.clear()


async def probe_udp(
    timeline: Timeline,
    remote: SocketAddress,
    request: bytes,
    reactor: DescriptorReactor,
    *,
    history: PortHistory | None = None,
    queued: bool = error_queue.AVAILABLE,
) -> bytes:
    """Send ``request`` and return the answer. ``history`` is shared by the probes of a series.

    :raises GreetFailed: when there is no answer.
    """
    timeline.peer = remote.address
    timeline.enter("greet")

    def open_socket() -> socket.socket:
        return udp_socket(remote, lambda sock: prepare(sock, timeline.options), queued=queued)

    probe = _DatagramProbe(
        timeline,
        request,
        reactor,
        open_socket,
        history=history,
        remote=remote if queued else None,
        repeats=timeline.options.source_port is None,
    )
    probe.send()
    return await probe.answer


async def probe_unixgram(
    timeline: Timeline,
    path: str,
    request: bytes,
    reactor: DescriptorReactor,
    *,
    history: PortHistory | None = None,
    abstract: bool = sys.platform == "linux",
) -> bytes:
    """Send ``request`` to a UNIX datagram socket and return the answer.

    :raises GreetFailed: when there is no answer.
    """
    timeline.peer = Address(path, 0)
    timeline.enter("connect")
    with UnixSockets(path, timeline, abstract=abstract) as sockets:

        def open_socket() -> socket.socket:
            return sockets.open(again=bool(timeline.attempts))

        probe = _DatagramProbe(timeline, request, reactor, open_socket, history=history)
        probe.send()
        return await probe.answer
