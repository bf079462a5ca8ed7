"""Load runs that talk: connections stay open between probes, and a probe is a message and its reply."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from typing import NamedTuple, cast

from greetsvc.client.load.connections import GREETED, Connection, LoadResult, Streams, failed
from greetsvc.client.load.metrics import Connections
from greetsvc.client.load.polling import HANGUP, READ, WRITE
from greetsvc.client.talk.framing import BadFrame, Framing
from greetsvc.client.words import ENDED_EARLY, NO_GREETING, NO_TALK, NOT_WHOLE, REFUSED, UNASKED
from greetsvc.printable import one_line
from greetsvc.wire import REFUSAL

__all__ = ["Speech", "TalkStreams", "TalkingConnection"]

_UNASKED = LoadResult(True, "talk", errno.EPROTO, UNASKED)
"""Answered, and then the server said more."""


class Speech(NamedTuple):
    """What is said on each connection: the messages in turn, in the frames that ``framing`` makes.

    With ``from_message``, the time of the first probe of a connection begins with its message, not with connecting.
    Text is in this ``encoding``.
    """

    framing: Callable[[], Framing]
    messages: tuple[bytes, ...]
    from_message: bool
    encoding: str = "utf-8"


class TalkingConnection(Connection):
    """A connection that goes on: its framing and messages, and what the socket did not take yet."""

    __slots__ = ("framing", "greeted", "messages", "opened", "over", "replied", "unsent", "writing")

    def __init__(self, bare: Connection, speech: Speech) -> None:
        super().__init__(bare.sock)
        self.framing = speech.framing()
        self.messages: Iterator[bytes] = cycle(speech.messages)
        self.opened = self.greeted = self.replied = self.over = self.writing = False
        self.unsent = b""


class TalkStreams(Streams):
    """TCP and UNIX streams that stay open. `greetsvc.client.load.tls` has the same over TLS."""

    speech: Speech
    connections: Connections

    def talk(self, speech: Speech) -> None:
        """Set what is said."""
        self.speech = speech
        self.connections = Connections()
        self._idle: dict[int, TalkingConnection] = {}
        refusal = REFUSAL.encode(speech.encoding)
        # A message may begin so, too, and be in its reply.
        self._refusal = None if any(one.startswith(refusal) for one in speech.messages) else refusal

    def open(self) -> Connection:
        """The connection that has been idle longest, or a new one."""
        if self._idle:
            return self._idle.pop(next(iter(self._idle)))
        talk = TalkingConnection(super().open(), self.speech)
        self.connections.add_opened()
        return talk

    def start(self, connection: Connection) -> LoadResult | None:
        """Say the next message; first connect, where that is not done."""
        talk = cast("TalkingConnection", connection)
        if talk.greeted:
            talk.data = b""  # the reply to the last message, which was checked since
            self._say(talk, talk.framing.encode(next(talk.messages)))
            return None
        result = super().start(talk)
        if result is None:
            self._poller.modify(talk.fd, READ | HANGUP | WRITE)
            talk.writing = True
        return result

    def ready(self, connection: Connection, events: int) -> LoadResult | None:
        """Take what came. The reply to our message ends the probe."""
        talk = cast("TalkingConnection", connection)
        end = super().ready(talk, events)
        data, talk.data = talk.data, b""
        try:
            result = self._take(talk, talk.framing.feed(data)) if data else None
        except BadFrame as bad:
            return failed("talk" if talk.greeted else "greet", errno.EPROTO, str(bad))
        if talk.framing.farewell:
            self._say(talk, talk.framing.replies())
            end = failed("greet", errno.ENODATA, NO_GREETING)
        if end is not None:
            talk.over = True
            return _missing(talk, end) if result is None else result
        if not talk.opened and self._stands(talk):
            talk.opened = True
            talk.unsent += talk.framing.opening()
        if data or talk.unsent or events & WRITE:
            self._say(talk, talk.framing.replies())
        return result

    def _take(self, talk: TalkingConnection, messages: list[bytes]) -> LoadResult | None:
        """The greeting is followed by our first message, a reply by the end of the probe."""
        for number, message in enumerate(messages, 1):
            if talk.greeted:
                talk.data, talk.replied = message, True
                if self._refusal is not None and message.startswith(self._refusal):
                    return self._refused(talk, message)
                if number == len(messages):
                    return GREETED
                talk.over = True  # what comes later could be taken for the reply to another message
                return _UNASKED
            talk.greeted = True
            now = time.monotonic()
            self.connections.seconds.add(now - talk.started)
            if self.speech.from_message:
                talk.intended = talk.started = now
            talk.unsent += talk.framing.encode(next(talk.messages))
        return None

    def _refused(self, talk: TalkingConnection, reply: bytes) -> LoadResult:
        talk.over = True
        why = reply.decode(self.speech.encoding, "backslashreplace").removeprefix(REFUSAL)
        return failed("talk", errno.EPROTO, f"{REFUSED} the message: {one_line(why)}")

    def timed_out(self, connection: Connection) -> LoadResult:
        """What was missing: the reply, or what comes before."""
        talk = cast("TalkingConnection", connection)
        return failed("talk", errno.ETIMEDOUT, "no reply in time") if talk.greeted else super().timed_out(talk)

    def release(self, connection: Connection, *, greeted: bool) -> None:
        """The probe is over: keep the connection for another one, or close it."""
        talk = cast("TalkingConnection", connection)
        if greeted and not talk.over:
            self._idle[talk.fd] = talk
        else:
            self._close(talk)

    def idle_ready(self, fd: int) -> None:
        """An idle connection has ended, or got what has to be answered, such as a ping."""
        talk = self._idle[fd]
        result = self.ready(talk, READ)
        talk.data = b""
        if result is not None:
            self._close(self._idle.pop(fd))

    def close(self) -> None:
        """Close the connections that are idle."""
        for talk in self._idle.values():
            self._say(talk, talk.framing.closing())
            self._close(talk)
        self._idle.clear()

    def _close(self, talk: TalkingConnection) -> None:
        self.connections.open -= 1
        talk.sock.close()

    def _stands(self, talk: TalkingConnection) -> bool:
        """Whether the connection is ready for the framing: it had an event, and that was no error."""
        return True

    def _say(self, talk: TalkingConnection, data: bytes) -> None:
        """Send this; what the socket does not take now waits until it is writable."""
        talk.unsent += data
        with suppress(OSError):  # an error that lasts is found when the socket is read
            if talk.unsent:
                talk.unsent = talk.unsent[talk.sock.send(talk.unsent) :]
        if talk.writing != bool(talk.unsent):
            talk.writing = not talk.writing
            self._poller.modify(talk.fd, READ | HANGUP | (WRITE if talk.writing else 0))


def _missing(talk: TalkingConnection, end: LoadResult) -> LoadResult:
    """The result when the connection ended before our message was answered."""
    if not talk.greeted:
        began = end.greeted or (end.errno == errno.ENODATA and talk.framing.rest)
        return failed("greet", errno.ENODATA, NOT_WHOLE) if began else end
    if end.errno and end.errno != errno.ENODATA:
        return failed("talk", end.errno)
    return failed("talk", errno.ENODATA, ENDED_EARLY if talk.replied else NO_TALK)
