"""What a series of datagram probes remembers, so that no answer counts for the wrong probe."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.client.evidence.direction import Session
from greetsvc.client.probe.datagram.requests import same
from greetsvc.client.words import LATE_ANSWER, NONE_MEASURED, NOT_MEASURED, TWO_ANSWERS
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.packets import read_header
from greetsvc.wire import MARKED_MINIMUM, MAX_ANSWER, decode_record, measured_in, nonce_of

__all__ = ["ANCILLARY", "DescriptorReactor", "Kept", "OpenSocket", "PortHistory", "read_errors"]

_LONGEST_DELAY = 10.0
"""Seconds after which an unanswered request from a fixed port is taken for lost."""

_MAX_KEPT = 16
"""Sockets of earlier probes on which a late or a doubled answer is looked for."""

_MAX_OPEN = 64
"""The same in a series of measured requests, where all of them are watched."""

ANCILLARY = 256
"""Bytes for what the kernel tells of an answer: a time stamp, and header fields of either family."""


class DescriptorReactor(IReactorTime, IReactorFDSet):
    """What a probe of datagrams, or a load run, needs of a reactor."""


@frozen
class Kept:
    """The socket of an earlier request: whether its answer came, and the address that answers (None: connected)."""

    sock: socket.socket
    answered: bool
    expected: tuple[Any, ...] | None


def read_errors(sock: socket.socket, session: Session | None) -> list[error_queue.QueuedError]:
    """Take the error queue of a socket; ``session`` learns of which requests ICMP says that they did not arrive."""
    errors = error_queue.read(sock, MARKED_MINIMUM)
    if session is not None:
        for error in errors:
            if error.icmp_version is not None:
                session.refused(nonce_of(error.quoted))
    return errors


@implementer(IReadDescriptor)
class OpenSocket:
    """The socket of a measured request whose probe is over: what comes there is late or a copy."""

    def __init__(
        self, sock: socket.socket, session: Session, expected: tuple[Any, ...] | None, reactor: DescriptorReactor
    ) -> None:
        self.sock = sock
        self._session = session
        self._expected = expected
        self._reactor = reactor

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self.sock.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log calls it."""
        return "greet"

    def doRead(self) -> None:
        """Count an answer."""
        try:
            data, ancillary, _, sender = self.sock.recvmsg(MAX_ANSWER + 1, ANCILLARY)
        except OSError:
            return
        measured = measured_in(data) if self._expected is None or same(sender, self._expected) else None
        if measured is not None:
            arrival = read_header(ancillary)
            self._session.received(measured, arrival.time or time.time_ns(), arrival)

    def connectionLost(self, reason: Failure) -> None:
        """ICMP reported an error, which no probe waits for any more."""
        self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        read_errors(self.sock, self._session)
        if self.sock.fileno() >= 0:
            self.watch()

    def watch(self) -> None:
        """Have the reactor watch the socket."""
        self._reactor.addReader(self)

    def take(self) -> socket.socket:
        """The socket for another request; it is not watched here any more."""
        self._reactor.removeReader(self)
        return self.sock

    def close(self) -> None:
        """Close the socket."""
        self.take().close()


@define
class PortHistory:
    """What earlier probes of a series have sent and not seen answered, so that no answer counts for the wrong probe.

    A fixed port cannot tell the answer to this request from a late one to an earlier request. But if this one is
    late, so is that to this request: it then comes as long after this request as the first came after the earlier
    one. So the first answer counts only when no second one has come by then. On a fixed port ``slowest`` (the longest
    time of an answer) does the same for copies of an answer. Times are those of the timeline's clock.

    Sockets with ports of their own are kept, to see whether an answer comes late or twice.

    With ``session`` the series asks for measured answers as soon as it knows that it is greeted; `measures` is true
    once one came. Then the sockets stay open: ``fixed`` is the one that the next request leaves from.
    """

    session: Session | None = None
    asks: bool = False
    wanted_answer: str = "count"
    """What its requests want: ``count``, or ``path`` of a server whose greetings are path records."""
    wanted: bool = field(init=False)
    """Whether the series was to be measured."""
    unmeasured: str = ""
    """Why no answers are measured, in words."""
    longest: float = 0.0
    """The longest time of a measured answer, in seconds."""
    fixed: OpenSocket | None = None
    opened: deque[OpenSocket] = field(factory=deque)
    unanswered: list[float] = field(factory=list)
    slowest: float = 0.0
    kept: deque[Kept] = field(factory=deque)

    def __attrs_post_init__(self) -> None:
        self.wanted = self.session is not None

    def doubt(self, sent: float, now: float) -> float:
        """How long after it was ``sent`` the answer to a request may still come, when one came ``now``."""
        self.unanswered = [earlier for earlier in self.unanswered if now - earlier < _LONGEST_DELAY]
        late = max((now - earlier for earlier in self.unanswered), default=0.0)
        expected, took = max(late, self.slowest), now - sent
        self.slowest = max(self.slowest / 2, took)
        return 1.25 * expected if expected > took else 0.0

    def keep(self, kept: Kept) -> None:
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

    @property
    def measures(self) -> bool:
        """Whether the far end gives measured answers."""
        return self.session is not None and self.session.answered

    @property
    def one_flow(self) -> bool:
        """Whether all measured requests leave from one port; of path records, the replicas are wanted, too."""
        return self.wanted_answer == "count"

    @property
    def measures_one_flow(self) -> bool:
        """Whether the requests of a probe may share a socket: each answer says which it answers."""
        return self.one_flow and self.measures

    def learn(self, data: bytes, took: float | None) -> None:
        """What an answer says about the far end; the first is the greeting. ``took``: the time of a measured one."""
        session = self.session
        if session is None:
            return
        if took is not None:
            self.longest = max(self.longest, took)
            return
        if self.measures:
            self._measure_nothing(session.trouble or NOT_MEASURED)
        elif self.asks:
            self._measure_nothing(NONE_MEASURED)
        else:
            self.asks = True
            self.wanted_answer = "count" if decode_record(data) is None else "path"

    def _measure_nothing(self, why: str) -> None:
        self.session, self.asks, self.unmeasured = None, False, why
        self._close_opened()

    def leave_open(self, opened: OpenSocket, *, fixed: bool) -> None:
        """Watch the socket of a probe that is over."""
        if fixed:
            self.fixed = opened
        else:
            self.opened.append(opened)
            if len(self.opened) > _MAX_OPEN:
                self.opened.popleft().close()
        opened.watch()

    def take_fixed(self) -> socket.socket:
        """The socket of the fixed port, for another request."""
        assert self.fixed is not None
        fixed, self.fixed = self.fixed, None
        return fixed.take()

    def close(self) -> None:
        """Close the sockets that are kept."""
        while self.kept:
            self.kept.popleft().sock.close()
        self._close_opened()

    def _close_opened(self) -> None:
        while self.opened:
            self.opened.popleft().close()
        if self.fixed is not None:
            self.take_fixed().close()
