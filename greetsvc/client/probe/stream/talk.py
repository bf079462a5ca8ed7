"""A probe that talks: the greeting, then a message and its reply, one after another, on one connection."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from attrs import define, evolve, frozen
from twisted.internet.interfaces import IDelayedCall, ITCPTransport, ITransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from greetsvc.client.alerts import tls_words
from greetsvc.client.options import ProbeOptions, Talk
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.stream.connection import StreamProbe, StreamReactor, run_stream
from greetsvc.client.probe.stream.rules import TLS_RECORDS
from greetsvc.client.probe.stream.state import StreamState, is_tls
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import RoundTrip, Talked
from greetsvc.client.talk.framing import BadFrame, Framing
from greetsvc.client.talk.protocols import framing_maker
from greetsvc.client.target import Target, format_address
from greetsvc.client.tls import ClientTls
from greetsvc.client.words import ENDED_EARLY, NO_TALK, NOT_WHOLE, REFUSED, TLS_RECORD, UNASKED, Closed
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import REFUSAL

__all__ = ["AnyState", "TalkProbe", "TalkState", "Turn", "new_state", "probe_talk", "talking", "turns_of"]


@frozen
class Turn:
    """One message to say, after a pause of so many seconds."""

    text: str
    message: bytes
    pause: float = 0.0


def turns_of(talk: Talk, encoding: str) -> list[Turn]:
    """What to say, one turn after another."""
    return [Turn(*both) for both in zip(talk.say, talk.messages(encoding), strict=True)]


def _http_host(target: Target) -> str:
    """How a request of HTTP names the target (RFC 9110 7.2)."""
    return "localhost" if target.local else format_address(Address(target.host, target.port))


@define(kw_only=True)
class TalkState(StreamState):
    """The state of one connection that goes on. It decides; `TalkProbe` acts.

    ``waits``: the server may close first, and that is timed. ``silent`` while a pause lasts, which began at
    ``silent_since``. ``since`` is when the latest message left, ``ended_at`` when the connection was gone. What the
    kernel knew of the connection when a pause began, when we spoke then, and when the time was over is in
    ``info_silent``, ``info_spoken`` and ``info_end``. ``refused`` is why the server takes no more messages.
    """

    framing: Framing
    turns: deque[Turn]
    greeted: bool = False
    done: bool = False
    waits: bool = True
    waiting: Turn | None = None
    silent: bool = False
    silent_since: float = 0.0
    since: float = 0.0
    ended_at: float = 0.0
    info_silent: TcpInfo | None = None
    info_spoken: TcpInfo | None = None
    info_end: TcpInfo | None = None
    spoken: int = 0
    unasked: str = ""
    bad_frame: str = ""
    refused: str = ""

    @property
    def talked(self) -> Talked:
        """What was talked so far."""
        assert self.timeline.talk is not None
        return self.timeline.talk

    def received(self, data: bytes) -> bool:
        """Take what came; False when it cannot be understood."""
        self.timeline.first_byte()
        if not self.greeted:
            self.data += data[: max(0, self.timeline.options.limit - len(self.data))]
        try:
            messages = self.framing.feed(data)
        except BadFrame as bad:
            self.bad_frame = str(bad)
            return False
        for message in messages:
            if not self.greeted:
                self.greeted = True
                self.data[:] = message
                self.timeline.trace_greeting(self.text_of(message), len(message))
                self.timeline.enter("talk")
            else:
                self._replied(message)
        return not self.refused

    def _replied(self, message: bytes) -> None:
        timeline, now = self.timeline, self.timeline.now()
        text = self.text_of(message)
        turn, self.waiting = self.waiting, None
        if turn is None:
            self.unasked = text
            timeline.note(f"{UNASKED}: {one_line(text)}")
            return
        trip = RoundTrip(turn.text, text, now - self.since)
        timeline.talk = evolve(self.talked, round_trips=(*self.talked.round_trips, trip))
        timeline.trace("<", f"{one_line(text)} ({1000 * trip.seconds:.3f} ms)")
        if text.startswith(REFUSAL) and not turn.text.startswith(REFUSAL):  # a name may begin so, too
            self.refused = f"{REFUSED} {self._which}: {one_line(text.removeprefix(REFUSAL))}"

    def text_of(self, message: bytes) -> str:
        """A message in the encoding of the probe."""
        return message.decode(self.timeline.options.encoding, "backslashreplace")

    @property
    def next(self) -> Turn | None:
        """The turn that may begin now; None while a reply or the greeting is missing, in a pause, or at the end."""
        busy = not self.greeted or self.waiting is not None or self.silent
        return None if busy or not self.turns else self.turns[0]

    @property
    def finished(self) -> bool:
        """Whether everything was said and answered."""
        return self.greeted and not self.turns and self.waiting is None

    def pause(self, info: TcpInfo | None) -> None:
        """The pause of the next turn begins."""
        self.silent, self.silent_since, self.info_silent = True, self.timeline.now(), info

    def speak(self, info: TcpInfo | None) -> bytes:
        """The next message, which leaves now, in its frame."""
        turn = self.turns.popleft()
        self.waiting, self.silent, self.info_spoken = turn, False, info
        self.spoken += 1
        self.since = self.timeline.now()
        self.timeline.trace(">", f"{one_line(turn.text)} ({len(turn.message)} bytes)")
        return self.framing.encode(turn.message)

    def close(self) -> bytes:
        """We close now; what the framing has to say before."""
        self.done, self.since = True, self.timeline.now()
        return self.framing.closing()

    def ended(self, error: BaseException, stream_error: BaseException) -> Closed:
        """How the connection ended, after all was said and answered.

        :raises GreetFailed: when something is missing.
        """
        fail, timeline = self.timeline.failed, self.timeline
        self.ended_at = timeline.now()
        closed = self.how(stream_error)
        if self.bad_frame:
            raise fail(errno.EPROTO, TLS_RECORD if self._is_tls_record() else self.bad_frame)
        if self.refused:
            raise fail(errno.EPROTO, self.refused)
        if self.done:
            if not self.timed_out:
                timeline.talk = evolve(self.talked, close=self.ended_at - self.since)
            return closed
        if not self.greeted:
            if not self.data:
                return super().ended(error, stream_error)
            if self._is_tls_record():
                raise fail(errno.EPROTO, TLS_RECORD, closed)
            words = self._farewell() or f"{NOT_WHOLE}, only {len(self.data)} bytes"
            raise fail(_ERRNOS[closed], words, closed)
        raise fail(_ERRNOS[closed], self._unanswered(error, closed), closed)

    def _is_tls_record(self) -> bool:
        return not self.tls and not self.greeted and self.data.startswith(TLS_RECORDS)

    def _farewell(self) -> str:
        """Why the server closed, where it said so."""
        return self.framing.farewell and f"the server closed: {one_line(self.framing.farewell)}"

    @property
    def _which(self) -> str:
        """The latest message."""
        return f"message {self.spoken}" if self.spoken > 1 or self.turns else "our message"

    def _unanswered(self, error: BaseException, closed: Closed) -> str:
        if self.tls and is_tls(error):
            return tls_words(error, handshake_done=True)
        which = self._which
        if self.framing.partial:
            how = {"timeout": f"no more {self.timeline.within}", "fin": ENDED_EARLY}
            words = how.get(closed, os.strerror(errno.ECONNRESET))
            return f"only {len(self.framing.partial)} bytes of the answer to {which} came: {words}"
        if closed == "timeout":
            return f"no answer to {which} {self.timeline.within}"
        if self.framing.farewell:
            return self._farewell()
        if closed == "reset":
            return f"{os.strerror(errno.ECONNRESET)}: no answer to {which}"
        return f"{ENDED_EARLY}, before it answered {which}" if self.talked.round_trips else NO_TALK


_ERRNOS: dict[Closed, int] = {"fin": errno.ENODATA, "reset": errno.ECONNRESET, "timeout": errno.ETIMEDOUT}


class TalkProbe(StreamProbe):
    """Carries out what `TalkState` decides."""

    state: TalkState
    _pause: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Connected: without TLS, the framing begins."""
        super().connectionMade()
        if not self.state.tls and not self.state.self_connected:
            self._write(self.state.framing.opening())

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done: the framing begins."""
        super().handshakeCompleted()
        self._write(self.state.framing.opening())

    def dataReceived(self, data: bytes) -> None:
        """A piece of the greeting or of a reply, cut anywhere."""
        if not self.state.received(data):
            self.abort()
        elif not self.result.called:  # a reply may have ended the whole run
            self._go_on()

    def _go_on(self) -> None:
        """Say what is to be said now, or later."""
        self._write(self.state.framing.replies())
        if self.state.framing.farewell and not self.state.done:
            self._stop_pause()
            cast("ITCPTransport", self.transport).loseConnection()
            return
        turn = self.state.next
        if turn is not None and turn.pause:
            self.state.pause(self.factory.tcp_info())
            self.factory.allow(turn.pause + self.state.timeline.options.timeout)
            self._pause = self.factory.reactor.callLater(turn.pause, self._speak)
        elif turn is not None:
            self._speak()
        elif self.state.finished and not self.state.done:
            self._write(self.state.close())
            transport = cast("ITCPTransport", self.transport)
            # TLS waits for the server's close_notify. Without it, only a half-close lets us see the server's FIN.
            half_close = self.state.waits and not self.state.tls
            transport.loseWriteConnection() if half_close else transport.loseConnection()

    def _speak(self) -> None:
        self._write(self.state.speak(self.factory.tcp_info()))

    def _write(self, data: bytes) -> None:
        if data:
            cast("ITransport", self.transport).write(data)

    def close(self) -> None:
        """The time is over."""
        self.state.info_end = self.factory.tcp_info()
        # With a message on its way, a FIN would leave the kernel to send both again and again.
        self.abort() if self.state.waiting else super().close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: give the result."""
        self._stop_pause()
        super().connectionLost(reason)

    def _stop_pause(self) -> None:
        if self._pause is not None and self._pause.active():
            self._pause.cancel()


def talking(target: Target, options: ProbeOptions) -> Callable[[], Framing]:
    """Makes the framing of each connection to a target."""
    assert options.talk is not None
    return framing_maker(options.talk.protocol, options.limit, options.encoding, _http_host(target))


AnyState = TypeVar("AnyState", bound=TalkState)


def new_state(
    timeline: Timeline, turns: Iterable[Turn], kind: type[AnyState], *, tls: bool, waits: bool = True
) -> AnyState:
    """The state of a new connection."""
    options = timeline.options
    assert options.talk is not None
    timeline.talk = Talked(options.talk.protocol)
    framing = talking(timeline.target, options)()
    return kind(timeline=timeline, tls=tls, framing=framing, turns=deque(turns), waits=waits)


async def probe_talk(
    timeline: Timeline, remote: SocketAddress | str, tls: ClientTls | None, reactor: StreamReactor
) -> tuple[bytes, Closed]:
    """Connect, read the greeting, say each message and read its reply; the greeting, and how the server closed.

    :raises GreetFailed: when the greeting or a reply is missing.
    """
    talk = timeline.options.talk
    assert talk is not None
    state = new_state(timeline, turns_of(talk, timeline.options.encoding), TalkState, tls=tls is not None)
    closed = await run_stream(state, remote, tls, reactor, TalkProbe)
    return bytes(state.data), closed
