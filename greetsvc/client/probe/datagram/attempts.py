"""One probe over datagrams: send the request, send it again until the time-out, take the answer of the target.

A plain greeting does not say which request it answers; only the socket that it reaches does. So each request leaves
from a socket, and a port, of its own. Where the port is fixed, a request is sent once, and `PortHistory` remembers
what the port has sent before. A measured answer names its request: in a series of these, sockets stay open after
their probes, so that what comes late or twice is counted, and as a rule all requests leave from one socket. Then the
counts are those of one server, also where a load balancer gives each flow to another one.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.path import Sent
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.datagram.history import (
    ANCILLARY,
    DescriptorReactor,
    Kept,
    OpenSocket,
    PortHistory,
    read_errors,
)
from greetsvc.client.probe.datagram.requests import (
    FIRST_REPEAT,
    MAX_WAITING,
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
from greetsvc.client.probe.system import first_icmp, system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import Exchange
from greetsvc.client.words import (
    LATE_ANSWER,
    NO_BUFFER_ERRNOS,
    OTHER_REQUEST,
    PERHAPS_EARLIER,
    TOO_LATE,
    TWO_ANSWERS,
    decimal,
)
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.packets import Arrival, ask_for_headers, read_header
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import Measured, decode_record, measured_in, nonce_of

__all__ = ["probe_udp", "probe_unixgram"]

_MAX_TOO_LONG = 4
"""Requests from a fixed port, when ICMP says of each that it is too long."""

MakeRequest = Callable[[int, int], bytes]
"""Makes a request of a probe: that with this number, from 0, which leaves now (CLOCK_REALTIME, in nanoseconds)."""

_STRAYS = {"late": LATE_ANSWER, "copy": TWO_ANSWERS}


@implementer(IReadDescriptor)
class _Attempt:
    """The socket of one request, as the reactor sees it.

    Twisted's connected UDP port stops reading, without a word, when an ICMP port unreachable comes under epoll: epoll
    reports an error and nothing to read, and the reactor takes that for the end. Here `connectionLost` then reads
    the error.
    """

    def __init__(
        self, probe: _DatagramProbe, sock: socket.socket, number: int, nonce: str | None, stamp: int
    ) -> None:
        self.sock = sock
        self.number = number
        self.nonce = nonce
        self.stamp = stamp
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
        request: MakeRequest,
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
        self._asks = self._history.asks
        self._keep = history is not None and repeats
        self._remote = remote
        self._expected = None if remote is None else answering(remote)
        self._repeats = repeats
        self._repeat: IDelayedCall | None = None
        self._attempts: list[_Attempt] = []
        self._unsure: bytes | None = None
        """An answer that counts when no other one comes."""
        self._is_reused = history is not None and history.fixed is not None
        """Whether the first request leaves from a port that earlier probes used."""
        self._asked_alone = False
        self._timer = reactor.callLater(timeline.remaining(), self._time_out)

    def send(self, wait: float = FIRST_REPEAT) -> None:
        """Send the request now, and again after ``wait`` seconds."""
        timeline, session, shared = self._timeline, self._history.session, None
        if self._attempts and self._history.measures_one_flow and not self._asked_alone:
            shared = self._attempts[0].sock
        try:
            sock = shared or self._open_socket()
        except OSError as error:
            if self._attempts:
                timeline.note(not_sent_again(error))
            else:
                self._fail(error.errno or errno.EIO)
            return
        began, stamp = timeline.now(), time.time_ns()
        request = self._request(len(timeline.attempts), stamp)
        nonce = nonce_of(request)
        if number := send_request(sock, request, self._remote):
            if shared is None:
                sock.close()
            if session is not None:
                session.unsent(nonce)
            if number in NO_BUFFER_ERRNOS:
                self._repeat = self._reactor.callLater(NO_BUFFER_REPEAT, self._send_again, wait)
            else:
                self._fail(number)
            return
        attempt = _Attempt(self, sock, timeline.sent_request(began), nonce, stamp)
        self._attempts.append(attempt)
        start = one_line(request[:25].decode("latin-1"))
        again = ", again" if attempt.number else ""
        timeline.trace(">", f"{start}… ({len(request)} bytes{again})")
        if shared is None:
            self._reactor.addReader(attempt)
        if self._repeats:
            self._repeat = self._reactor.callLater(wait, self._send_again, 2 * wait)
        self._note_sent(attempt)

    def _send_again(self, wait: float) -> None:
        """Send the request again, unless there is an answer that nobody has read yet, or the time is over."""
        asked_alone = self._asked_alone
        if not self._look() and self._asked_alone is asked_alone and self._timeline.remaining():
            self.send(wait)

    def _note_sent(self, attempt: _Attempt) -> None:
        """Keep what our own side knows of a request."""
        remote, session = self._remote, self._history.session
        if remote is not None:
            attempt.sent = read_datagram(attempt.sock, remote.address, remote.sockaddr, attempt.nonce)
            self._timeline.sent = attempt.sent
            if session is not None:
                session.ttl = attempt.sent.ttl

    def watch(self, attempt: _Attempt) -> None:
        """Have the reactor watch a socket again, unless the probe is over or the socket is closed."""
        if not self.answer.called and attempt in self._attempts:
            self._reactor.addReader(attempt)

    def read(self, attempt: _Attempt) -> bool:
        """Take what came on the socket of one request; whether there was a datagram."""
        timeline, limit = self._timeline, self._timeline.options.limit
        try:
            data, ancillary, flags, sender = attempt.sock.recvmsg(limit + 1, ANCILLARY)
        except BlockingIOError:
            return False
        except OSError as error:
            self.read_errors(attempt, error.errno or errno.EIO)
            return False
        arrival = read_header(ancillary)
        late = self._unsure is None and timeline.is_late(arrival.time)
        fault = fault_of(data, limit, cut=bool(flags & socket.MSG_TRUNC))
        measured = measured_in(data) if self._asks and self._history.session is not None and not fault else None
        if self._expected is not None and not same(sender, self._expected):
            timeline.note(other_sender(sender))
        elif measured is not None:
            self._take_measured(attempt, data, measured, arrival, late=late)
        elif late:
            timeline.note(TOO_LATE)
        elif self._may_be_earlier(attempt, data):
            self._ask_alone()
        elif fault:
            self._finish(timeline.failed(*fault))
        elif not answers_request(data, attempt.nonce):
            timeline.note(OTHER_REQUEST)
        elif self._unsure is not None:
            self._second_answer()
        else:
            self._take(attempt, data)
        return True

    def _look(self) -> bool:
        """Read what came while this process was too busy to notice; whether the probe has an answer now."""
        for attempt in tuple(self._attempts):
            for _ in range(MAX_WAITING):
                if attempt not in self._attempts or not self.read(attempt):
                    break
        return self.answer.called or self._unsure is not None

    def _may_be_earlier(self, attempt: _Attempt, data: bytes) -> bool:
        """Whether this answer, which names no request, may be to one that an earlier probe sent from the same port.

        Where the port is fixed there is no better way to find out than `PortHistory.doubt`.
        """
        session, first = self._history.session, self._attempts[0]
        if session is None or not (self._repeats and self._is_reused) or attempt.sock is not first.sock:
            return False
        return session.awaits_earlier(first.nonce) and decode_record(data) is None

    def _ask_alone(self) -> None:
        """Only the answer to a request from a port of its own tells: send one, once."""
        if self._asked_alone or not self._timeline.remaining():
            return
        self._asked_alone = True
        self._timeline.note(PERHAPS_EARLIER)
        if self._repeat is not None and self._repeat.active():
            self._repeat.cancel()
        self.send()

    def _take_measured(
        self, attempt: _Attempt, data: bytes, measured: Measured, arrival: Arrival, *, late: bool
    ) -> None:
        """Count a measured answer, and take it when it is the first to this request."""
        session = self._history.session
        assert session is not None
        came = arrival.time or time.time_ns()
        if late:
            session.over(measured.nonce)
        what = session.received(measured, came, arrival)
        asked = next((one for one in self._attempts if one.nonce == measured.nonce), None)
        if what != "answer" or asked is None or asked.sock is not attempt.sock:
            self._timeline.note(TOO_LATE if late and asked is not None else _STRAYS.get(what, OTHER_REQUEST))
            return
        attempt, one = asked, measured
        times = (attempt.stamp, one.rx, one.tx, came, one.seen, one.seq, one.ttl, one.tos, one.size)
        self._take(attempt, data, Exchange(*times, arrival.ttl, arrival.tos))

    def _take(self, attempt: _Attempt, data: bytes, exchange: Exchange | None = None) -> None:
        """Take an answer; on a fixed port, one that may be to another request waits until that is refuted."""
        timeline = self._timeline
        sent, now = timeline.answered(attempt.number, exchange)
        self._history.learn(data, None if exchange is None else now - sent)
        timeline.sent = attempt.sent
        if self._expected is not None:
            timeline.peer = SocketAddress(0, self._expected).address
        self._note_strays()
        named = attempt.nonce is not None and (exchange is not None or decode_record(data) is not None)
        doubt = 0.0 if self._repeats or named else self._history.doubt(sent, now)
        if not doubt:
            self._finish(data)
            return
        self._unsure = data
        if self._timer.active():
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
        timeline.note(f"{LATE_ANSWER}, after {decimal(came - history.unanswered[0])} s")
        history.unanswered = [*history.unanswered, sent][2:]
        self._finish(timeline.failed(errno.ETIMEDOUT, f"no answer to this request {timeline.within}"))

    def _note_strays(self) -> None:
        for stray in self._history.strays():
            self._timeline.note(stray)

    def read_errors(self, attempt: _Attempt, number: int) -> None:
        """Fail with what ICMP reported. After "too long" the system fragments: the repeated request may pass."""
        icmp = None
        if self._remote is not None:
            errors = read_errors(attempt.sock, self._history.session)
            queued, icmp = first_icmp(errors, attempt.sock, self._remote.sockaddr)
            number = queued or number
        if number not in (0, errno.EMSGSIZE):
            self._fail(number, icmp)
        elif number and not self._repeats and len(self._timeline.attempts) < _MAX_TOO_LONG:
            self._close_sockets()  # the request is known to be lost, so no answer to it can come
            self.send()

    def _fail(self, number: int, icmp: Icmp | None = None) -> None:
        self._finish(system_failed(self._timeline, number, icmp))

    def _time_out(self) -> None:
        if self._look():
            return
        timeline = self._timeline
        count = len(timeline.attempts)
        if not self._repeats:
            self._history.unanswered += [timeline.sent_at(attempt.number) for attempt in self._attempts]
        self._note_strays()
        self._finish(timeline.failed(errno.ETIMEDOUT, no_answer(count, timeline.within)))

    def _finish(self, result: bytes | Exception) -> None:
        history, attempts = self._history, self._attempts
        if history.session is not None and self._asks and attempts:
            for attempt in attempts:
                history.session.over(attempt.nonce)
                self._reactor.removeReader(attempt)
            answered = [one.sock for one in attempts if self._timeline.attempts[one.number].seconds is not None]
            flow = (answered or [attempts[-1].sock])[0] if history.one_flow or not self._repeats else None
            for sock in {attempt.sock for attempt in attempts}:
                opened = OpenSocket(sock, history.session, self._expected, self._reactor)
                history.leave_open(opened, fixed=sock is flow)
            attempts.clear()
        elif self._keep:
            was_answered = [attempt.seconds is not None for attempt in self._timeline.attempts]
            # What comes to a request that was sent after the answered one is neither late nor a copy.
            for attempt in attempts[: was_answered.index(True) + 1 if True in was_answered else None]:
                self._reactor.removeReader(attempt)
                attempts.remove(attempt)
                history.keep(Kept(attempt.sock, was_answered[attempt.number], self._expected))
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
    request: MakeRequest,
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

    def set_options(sock: socket.socket) -> None:
        prepare(sock, timeline.options)
        ask_for_headers(sock)

    def open_socket() -> socket.socket:
        if history is not None and history.fixed is not None:
            return history.take_fixed()
        return udp_socket(remote, set_options, queued=queued)

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
    request: MakeRequest,
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
