"""One probe without a reactor, for health checks: blocking, one target, plain TCP, UDP or a UNIX socket.

The rules and the words are those of every probe; only the waiting is done here. Importing this needs no library, and
so costs a tenth of what a reactor does: a health check runs every few seconds, in every container.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from greetsvc.address import Address
from greetsvc.client.probe.addresses import FAMILIES, SocketAddress, addresses, ask_resolver, bad_literal, failure_of
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
from greetsvc.client.probe.steps import Steps
from greetsvc.client.probe.stream.rules import FULL_RETRY, StreamRules
from greetsvc.client.probe.system import read_icmp, system_failed
from greetsvc.client.words import (
    NO_BUFFER_ERRNOS,
    NO_RESOLVER,
    NO_THREAD,
    OTHER_REQUEST,
    TOO_LATE,
    Closed,
    failed_words,
)
from greetsvc.marked import nonce_of, request
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.tcp_info import read_tcp_info
from greetsvc.net.linux.time_stamps import ANCILLARY, ask_for_time, time_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from greetsvc.client.basics import Basics
    from greetsvc.client.evidence.icmp import Icmp
    from greetsvc.client.target import Target

__all__ = ["NotGreeted", "probe"]

_PIECE = 65536
_CONNECTING = frozenset([errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK])


class NotGreeted(Exception):
    """No greeting came; the text is the step that failed, and why."""


class _QuickSteps(Steps):
    def failed(self, number: int, why: str, closed: Closed | None = None, *, icmp: Icmp | None = None) -> NotGreeted:
        return NotGreeted(failed_words(self.phase, self.reason(why), self.asked()))


class _Stream(StreamRules):
    def __init__(self, steps: _QuickSteps) -> None:
        self.timeline = steps
        self.tls = self.timed_out = self.self_connected = False
        self.data = bytearray()
        self.last_piece = self.longest_pause = 0.0


def probe(target: Target, options: Basics) -> str:
    """Probe once; what is wrong with the greeting that came, in words, or nothing.

    :raises NotGreeted: when none came.
    """
    steps = _QuickSteps(target, options)
    try:
        if target.transport == "unixgram":
            _probe_unixgram(steps)
        elif target.transport == "unix":
            _probe_stream(steps, Address(target.path, 0), socket.AF_UNIX, target.path)
        else:
            remote = _resolve(steps)
            if target.datagram:
                _probe_udp(steps, remote)
            else:
                _probe_stream(steps, remote.address, *remote)
    except OSError as error:  # this host failed where none of the steps expects it
        raise system_failed(steps, error.errno or errno.EIO) from None
    return steps.cut_short


def _resolve(steps: _QuickSteps) -> SocketAddress:
    target, family = steps.target, FAMILIES[steps.options.family]
    try:
        return addresses(target, family, socket.AI_NUMERICHOST)[0]
    except OSError as error:
        if ":" in target.host:
            raise steps.failed(*bad_literal(target, error)) from None
    steps.enter("resolve")
    try:
        found = _within(steps, lambda: ask_resolver(target, family))
    except OSError as error:
        raise steps.failed(*failure_of(error)) from None
    steps.resolved([each.address for each in found])
    return found[0]


def _within(steps: _QuickSteps, call: Callable[[], list[SocketAddress]]) -> list[SocketAddress]:
    """The result of a call that nothing can end before its time: it is left behind in a thread when that is over."""
    from threading import Thread

    results: list[list[SocketAddress] | Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - any exception belongs to the caller
            results.append(error)

    thread = Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise steps.failed(errno.EAGAIN, NO_THREAD) from None
    thread.join(steps.remaining())
    if not results:
        raise steps.failed(errno.ETIMEDOUT, f"{NO_RESOLVER} {steps.within}")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _probe_stream(steps: _QuickSteps, peer: Address, family: int, sockaddr: Any) -> None:
    rules = _Stream(steps)
    steps.enter("connect")
    steps.peer = peer
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        queued = error_queue.AVAILABLE and family != socket.AF_UNIX
        if queued:
            error_queue.turn_on(sock)
        if number := _connect(steps, sock, sockaddr):
            rules.timed_out = number == errno.EINPROGRESS
            found, icmp = read_icmp(sock, peer)
            raise rules.no_connection(found or number, icmp)
        if queued:
            error_queue.turn_off(sock)
        rules.self_connected = family != socket.AF_UNIX and sock.getsockname() == sock.getpeername()
        if not rules.self_connected:
            info = read_tcp_info(sock)
            rules.connected(0 if info is None else info.retransmits)
        rules.end("fin" if rules.self_connected else _read(steps, sock, rules))


def _connect(steps: _QuickSteps, sock: socket.socket, sockaddr: Any) -> int:
    """Connect; 0, or the errno: EINPROGRESS when the time was over."""
    number = sock.connect_ex(sockaddr)
    while number in _CONNECTING and steps.remaining():
        if sock.family == socket.AF_UNIX:
            select.poll().poll(1000 * min(FULL_RETRY, steps.remaining()))
            number = sock.connect_ex(sockaddr)
        elif _wait(steps, sock, select.POLLOUT):
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.EINPROGRESS if number in _CONNECTING else number


def _read(steps: _QuickSteps, sock: socket.socket, rules: _Stream) -> Closed:
    """Read until the end of the stream, of the time, or of what is allowed; how it ended."""
    while _wait(steps, sock, select.POLLIN):
        try:
            data = sock.recv(_PIECE)
        except BlockingIOError:
            continue
        except OSError:
            return "reset"
        if not data or not rules.received(data):
            return "fin"
    rules.timed_out = True
    return "timeout"


def _wait(steps: _QuickSteps, sock: socket.socket, events: int) -> bool:
    """Wait for a socket; False when the time was over."""
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(1000 * steps.remaining()))


def _probe_udp(steps: _QuickSteps, remote: SocketAddress) -> None:
    steps.peer = remote.address
    steps.enter("greet")
    queued = error_queue.AVAILABLE
    _Requests(steps, lambda _: udp_socket(remote, queued=queued), remote if queued else None).probe()


def _probe_unixgram(steps: _QuickSteps) -> None:
    steps.peer = Address(steps.target.path, 0)
    steps.enter("connect")
    with UnixSockets(steps.target.path, steps) as sockets:
        _Requests(steps, lambda again: sockets.open(again=again), None).probe()


class _Requests:
    """The requests of one probe, each from a socket of its own. ``remote`` is where unconnected ones send."""

    def __init__(
        self, steps: _QuickSteps, open_socket: Callable[[bool], socket.socket], remote: SocketAddress | None
    ) -> None:
        self._steps = steps
        self._open = open_socket
        self._remote = remote
        self._expected = None if remote is None else answering(remote)
        self._request = request(os.urandom(8).hex(), steps.options.size)
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.poll()

    def probe(self) -> None:
        """Send the request, again and again, until a greeting comes; nothing else is read."""
        steps = self._steps
        try:
            wait = FIRST_REPEAT
            pause: float | None = self._send(wait)
            due = steps.now()
            looks = MAX_WAITING  # when the time is over: this process may not have run before
            while looks:
                left = steps.remaining()
                until = left if pause is None else min(left, max(0.0, due + pause - steps.now()))
                ready = self._poll.poll(1000 * until)
                if not left:
                    looks = looks - 1 if ready else 0
                for fd, _ in ready:
                    if self._read(self._sockets[fd]):
                        return
                if pause is not None and steps.remaining() and steps.now() >= due + pause:
                    due, wait = steps.now(), 2 * wait if pause == wait else wait
                    pause = self._send(wait)
            raise steps.failed(errno.ETIMEDOUT, no_answer(len(self._sockets), steps.within))
        finally:
            for sock in self._sockets.values():
                sock.close()

    def _send(self, wait: float) -> float | None:
        """Send the request once; seconds until it is sent again, which is ``wait`` when it left, or None."""
        steps = self._steps
        try:
            sock = self._open(bool(self._sockets))
        except OSError as error:
            if not self._sockets:
                raise
            steps.note(not_sent_again(error))
            return None
        ask_for_time(sock)
        number = send_request(sock, self._request, self._remote)
        if number:
            sock.close()
        if number in NO_BUFFER_ERRNOS:
            return NO_BUFFER_REPEAT
        if number:
            raise system_failed(steps, number)
        self._sockets[sock.fileno()] = sock
        self._poll.register(sock, select.POLLIN)
        return wait

    def _read(self, sock: socket.socket) -> bool:
        """Read one datagram, or the error, of a socket; whether it is the greeting."""
        steps, limit = self._steps, self._steps.options.limit
        try:
            data, ancillary, flags, sender = sock.recvmsg(limit + 1, ANCILLARY)
        except OSError as error:
            would_block = isinstance(error, BlockingIOError)
            self._check(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if would_block else error.errno)
            return False
        if self._expected is not None and not same(sender, self._expected):
            steps.note(other_sender(sender))
            return False
        if steps.is_late(time_in(ancillary)):
            steps.note(TOO_LATE)
            return False
        if fault := fault_of(data, limit, cut=bool(flags & socket.MSG_TRUNC)):
            raise steps.failed(*fault)
        if answers_request(data, nonce_of(self._request)):
            return True
        steps.note(OTHER_REQUEST)
        return False

    def _check(self, sock: socket.socket, number: int | None) -> None:
        """Fail with an error of a socket. After "too long" the system fragments: the repeated request may pass."""
        icmp = None
        if self._remote is not None:
            queued, icmp = read_icmp(sock, self._remote.sockaddr)
            number = queued or number
        if number not in (0, errno.EMSGSIZE):
            raise system_failed(self._steps, number or errno.EIO, icmp)
