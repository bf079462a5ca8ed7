"""Protocols that greet and then go on talking: each message of the peer gets an answer, in order and within bounds.

`TalkingProtocol` is what they share. It knows the life of a connection and the bounds; how messages are told apart is
a `greetsvc.protocols.framing.Framing`; what is answered is `TalkingProtocol.reply`.

A peer that sends more than it reads is not read from. At most `CHUNK` bytes are taken apart at once, and no answer is
made while the transport has 64 KiB to send.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar, cast

from attrs import Attribute, evolve, field, frozen
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.endpoint import split_options
from greetsvc.printable import shortened
from greetsvc.protocols.framing import Framing, Lines, Receiver, line_text
from greetsvc.protocols.registry import Context
from greetsvc.server.rendering import FailureLog, GreeterFailed
from greetsvc.server.stream import GreetingFactory, GreetingProtocol, path_facts
from greetsvc.visit import Visit
from greetsvc.wire import REFUSAL, line_end

__all__ = ["CHUNK", "LONGEST", "RATE", "TURN", "Limits", "TalkingFactory", "TalkingPlugin", "TalkingProtocol"]

CHUNK = 4096
"""Bytes that are taken apart at once. It bounds what is made of them: each may be a message."""

ENOUGH = 16 * 1024
"""Bytes of answers that are written at once."""

LONGEST = 4096
"""Bytes in a message, unless ``max`` says otherwise."""

RATE = 10_000
"""Messages of one connection that are answered in a second, unless ``rate`` says otherwise."""

TURN = 256
"""Messages of one connection that are answered in one turn of the reactor, so that others have theirs."""

SLACK = 1 / 64
"""The part of the deadline that a connection may live longer. An answer so soon after another starts no new one."""

_RANGES = {"max": (1, 65536), "rate": (1, 10_000_000), "total": (0, 10**12)}

_Fault = tuple[str, str]
"""Why a connection is ended, in words, and what it is counted as."""


def _in_range(_limits: Limits, attribute: Attribute[int], value: int) -> None:
    lowest, highest = _RANGES[attribute.name]
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{attribute.name} must be a whole number from {lowest} to {highest}, not {value!r}")


@frozen
class Limits:
    """The bounds of a connection: bytes in a message, messages a second, and messages in all (0: any number).

    :raises ValueError: when one is out of range.
    """

    max: int = field(default=LONGEST, validator=_in_range)
    rate: int = field(default=RATE, validator=_in_range)
    total: int = field(default=0, validator=_in_range)


@implementer(IHalfCloseableProtocol, IPushProducer)
class TalkingProtocol(GreetingProtocol):
    """Greets, then answers each message until the peer leaves, or is silent until the deadline.

    Override `reply`. Messages are lines; subclass `NetstringProtocol`, `Int32Protocol` or `WebSocketProtocol` for
    others. The deadline, the limits, the counters and the lingering close are inherited, and so are the
    bounds and the order of the answers.

    ``options`` are those of the subclass: by name, the function that makes a value of the text behind ``NAME=``. It
    raises `ValueError` for a wrong one. ``self.factory.options`` has the values that were given. ``default_limits``
    holds where the options say nothing.

    :raises TypeError: for a subclass with an option that every talking protocol has.
    """

    factory: TalkingFactory
    transport: Any
    framing: ClassVar[type[Framing]] = Lines
    text_of: Callable[[Any, str], str] = staticmethod(line_text)
    """The text of a message, as the receiver has it, in an encoding. Raises `ValueError`."""
    options: ClassVar[Mapping[str, Callable[[str], object]]] = {}
    default_limits: ClassVar[Limits] = Limits()

    _visit: Visit | None = None  # for all greetings of the connection; not kept for greeters that need only a name
    _greeting_for: Callable[[str], bytes] | None = None  # made for the first name: many peers only listen
    _receiver: Receiver | None = None
    _unread = b""  # received, and not taken apart yet
    _answered = 0
    _now = 0.0  # when messages were answered last
    _restart_at = 0.0  # when an answer starts the deadline again
    _second = 0.0  # when the second began in which `_used` messages were answered
    _used = 0
    _resting: IDelayedCall | None = None  # until the next turn, or the next second
    _busy = False  # answering: what `reply` asks for happens when it has returned
    _answers: list[bytes] | None = None  # while `reply` runs: what is to be sent so far
    _failed = False  # `fail` was called: its error is the last answer
    _blocked = False  # the transport has enough to send
    _stopped = False  # the transport was told not to read
    _last = False  # nothing more is to come
    _leaving = False  # `close` was called
    _follows = False  # one of the last three is to be seen to after answers
    _over = False  # no message is answered any more

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _RANGES:
            if name in cls.options:
                raise TypeError(f"{cls.__name__}.options: every talking protocol has {name}= already")

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> TalkingPlugin:
        r"""The plugin, from ``NAME=VALUE:NAME=VALUE`` with ``max``, ``rate``, ``total`` and the ``options``.

        A colon in a value is written ``\:``, a backslash ``\\``.
        """
        limits: dict[str, int] = {}
        own: dict[str, Any] = {}
        for name, *rest in split_options(argument) if argument else ():
            value = rest[0] if rest else ""
            if name in limits or name in own:
                raise ValueError(f"{name}= is given twice")
            if name in cls.options:
                own[name] = cls.options[name](value)
            elif name in _RANGES:
                limits[name] = _number(name, value)
            else:
                known = " ".join(f"{one}=" for one in (*_RANGES, *cls.options))
                raise ValueError(f"{'='.join([name, *rest])!r} is not an option; there are {known}")
        given = evolve(cls.default_limits, **limits)
        return TalkingPlugin(cls, cls.framing(encoding, given.max), given, own)

    def reply(self, message: str) -> str | bytes:
        """The answer to one message, both without their framing. Text is written in the encoding of the listener.

        Runs in the reactor's thread and must not block. Called once for each message, in order, and never after
        `close`. The base class returns the greeting for the name ``message``. If it raises, the peer gets an error
        and the connection ends.
        """
        if self._greeting_for is None:
            self._greeting_for = self.factory.naming(self)
        return self._greeting_for(message)

    # The life of a connection

    def connectionMade(self) -> None:
        """Connected."""
        # Read for each message: found sooner in the instance than in the class.
        self._over = self._blocked = self._leaving = self._follows = False
        self._resting = None
        super().connectionMade()

    def greet(self) -> None:
        """The connection may be open, and TLS stands: become the producer of the transport, then `begin`."""
        self.transport.registerProducer(self, True)
        self.begin()

    def begin(self) -> None:
        """Send the greeting."""
        try:
            greeting = self.factory.begin(self)
        except GreeterFailed:
            self.close()
            return
        self.send([greeting])
        self.factory.greeted(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer the messages that are complete."""
        if self._over:
            super().dataReceived(data)
            return
        self._unread = self._unread + data if self._unread else data
        if not (self._blocked or self._resting or self._busy):
            self._answer()

    def readConnectionLost(self) -> None:
        """The peer has sent its FIN."""
        self.finish()

    def finish(self) -> None:
        """Nothing more is to come: answer what was received, then close."""
        self._last = self._follows = True
        if not (self._over or self._blocked or self._resting or self._busy):
            self.close()

    def writeConnectionLost(self) -> None:
        """The FIN is sent."""

    def close(self) -> None:
        """Close when everything is written. From `reply`: when its answer is written, and it is the last one."""
        self._leaving = self._follows = True
        if self._busy or self._over:
            return
        self._end()
        self.say_goodbye()
        self.transport.unregisterProducer()
        self.factory.start_deadline(self)  # now that of the close: the peer may not read
        super().close()

    def expire(self) -> None:
        """The peer was silent until the deadline: close. If that is under way, or the peer does not read: abort."""
        if self._over or self._blocked:
            super().expire()
        else:
            self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over."""
        self._end()
        super().connectionLost(reason)

    def say_goodbye(self) -> None:
        """What the protocol says before it closes: nothing, as the FIN says it."""

    def fail(self, why: str, reason: str) -> None:
        """Send an error, which is the last answer, and close. ``reason`` is what it is counted as.

        From `reply`: what that returns is not sent any more.
        """
        if not self._failed:
            self._failed = True
            self.factory.ledger.ended[reason] += 1
            self.send([f"{REFUSAL}{why}".encode(self.factory.encoding, "replace")])
        self.close()

    def _end(self) -> None:
        self._over = True
        self._receiver, self._unread = None, b""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    # For the transport, as the producer of answers

    def pauseProducing(self) -> None:
        """The transport has enough to send: answer no more, and do not read."""
        self._blocked = True
        self._stop_reading()

    def resumeProducing(self) -> None:
        """Everything was sent."""
        self._blocked = False
        if not (self._over or self._resting or self._busy):
            self._answer()

    def stopProducing(self) -> None:
        """The connection is lost."""

    # Answering

    def send(self, payloads: list[bytes]) -> None:
        """Write these payloads, each in its frame. From `reply`: behind the answers to earlier messages."""
        if self._answers is not None:
            self._answers += payloads
        else:
            self._write(payloads)

    def _write(self, payloads: list[bytes]) -> None:
        self.transport.write(self.factory.framing.frames(payloads))

    def _answer(self) -> None:
        """Answer what was received, until nothing is left or a bound is reached, and do what follows from it."""
        answered, most, transport, fault = 0, self._allowed(), self.transport, None
        self._busy = True
        while not (fault or self._blocked or self._leaving or self._over or transport.disconnecting):
            receiver = self._receiver
            if receiver is None or not (receiver.messages or receiver.fault):
                unread = self._unread
                if not unread:
                    break
                if len(unread) > CHUNK:
                    unread, self._unread = unread[:CHUNK], unread[CHUNK:]
                else:
                    self._unread = b""
                receiver = self.take_apart(unread)
            if receiver.messages:
                if answered >= most:
                    fault = self._rest()
                    break
                done, fault = self._answer_batch(receiver.messages, most - answered)
                answered += done
            elif receiver.fault:
                fault = receiver.fault, "framing"
        self._busy = False
        if answered and self._now >= self._restart_at and not self._over:
            self._restart_at = self._now + self.factory.slack
            self.factory.start_deadline(self)
        if fault or self._follows:
            self._follow(fault)

    def _follow(self, fault: _Fault | None) -> None:
        """Do what is to be done after answers, which is rarely anything."""
        if self._over:
            return
        if fault is not None:
            self.fail(*fault)
        elif self._leaving:
            self.close()
        elif not (self._blocked or self._resting):
            if self._last:
                self.close()
            elif self._stopped:
                self._stopped = self._follows = False
                self.transport.resumeProducing()

    def _answer_batch(self, messages: list[Any], most: int) -> tuple[int, _Fault | None]:
        """Answer the first messages with one write, and remove them."""
        factory, transport, reply, text_of = self.factory, self.transport, self.reply, self.text_of
        encoding, fault = factory.encoding, None
        answers = self._answers = []
        size = done = 0
        for message in messages if len(messages) <= most else messages[:most]:
            try:
                text = text_of(message, encoding)
            except ValueError as error:  # a UnicodeDecodeError, except for some codecs
                why = getattr(error, "reason", error)
                fault = f"the message is not text in {encoding}: {why}", "encoding"
                break
            try:
                answer = reply(text)
                if isinstance(answer, str):
                    answer = answer.encode(encoding, "replace")
                elif not isinstance(answer, bytes):
                    raise _no_answer(answer)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a subclass may raise anything, and only its connection ends
                fault = factory.failed(error)
                break
            done += 1
            leaving = self._leaving
            if not (leaving and self._failed):
                answers.append(answer)
            size += len(answer)
            if size >= ENOUGH or leaving or transport.disconnecting:
                break
        self._answers = None
        if not self._over:
            del messages[:done]
            self._answered += done
            self._used += done
            factory.ledger.answered[factory.transport] += done
            if answers:
                self._write(answers)
        return done, fault

    def take_apart(self, data: bytes) -> Receiver:
        """Give the next bytes to the receiver, which is made for the first ones."""
        receiver = self._receiver
        if receiver is None:
            receiver = self._receiver = self.factory.framing.receiver()
        receiver.dataReceived(data)
        return receiver

    # The bounds

    def _allowed(self) -> int:
        """How many messages may be answered in this turn."""
        limits = self.factory.limits
        self._now = now = self.factory.clock.seconds()
        if now - self._second >= 1:
            self._second, self._used = now, 0
        most = min(TURN, limits.rate - self._used)
        return min(most, limits.total - self._answered) if limits.total else most

    def _rest(self) -> _Fault | None:
        """Go on in the next turn, or the next second, and do not read until then; or why no more is answered."""
        limits, clock = self.factory.limits, self.factory.clock
        if limits.total and self._answered >= limits.total:
            return f"a connection has {limits.total} messages", "total"
        wait = self._second + 1 - clock.seconds() if self._used >= limits.rate else 0.0
        self._resting = clock.callLater(max(0.0, wait), self._rested)
        self._stop_reading()
        return None

    def _rested(self) -> None:
        self._resting = None
        if not self._blocked:
            self._answer()

    def _stop_reading(self) -> None:
        if not self._stopped:
            self._stopped = self._follows = True
            self.transport.pauseProducing()


class TalkingFactory(GreetingFactory):
    """The factory of one listener. ``framing``, ``encoding``, ``limits`` and ``options`` are for its protocols."""

    protocol: type[TalkingProtocol]

    def __init__(self, plugin: TalkingPlugin, context: Context) -> None:
        super().__init__(
            context.greeter,
            ledger=context.ledger,
            admission=context.admission,
            deadline=context.deadline * (1 + SLACK),
            linger=context.linger,
            transport=context.transport,
            reactor=context.reactor,
        )
        self.protocol = plugin.protocol
        self.slack = context.deadline * SLACK
        self.framing = plugin.framing
        self.limits = plugin.limits
        self.options = plugin.options
        self.encoding = context.encoding
        self.clock = context.reactor
        self._line_ends = tuple(line_end(context.encoding, end) for end in ("\r\n", "\n"))
        self._failures = FailureLog()

    def begin(self, protocol: TalkingProtocol) -> bytes:
        """The greeting for a peer that has not given a name yet. Raises `GreeterFailed`.

        This and the others are without a line end, as the framing says where they end.
        """
        needs = self.greeter.needs
        visit = self._visit(protocol) if needs else None
        if any(need != "name" for need in needs):
            protocol._visit = visit
        rendering = self._rendering
        return self._without_line_end(rendering.constant or rendering.of(lambda: cast(Visit, visit)))

    def naming(self, protocol: TalkingProtocol) -> Callable[[str], bytes]:
        """What makes the greetings for names on this connection. It may raise `GreeterFailed`."""
        greeter, rendering = self.greeter, self._rendering
        if rendering.constant is not None:
            constant = self._without_line_end(rendering.constant)
            return lambda _name: constant
        visit = protocol._visit or self._visit(protocol)
        named = greeter.naming(visit) if hasattr(greeter, "naming") else None
        return named or (
            lambda name: self._without_line_end(rendering.of(partial(self._named, protocol, visit, name)))
        )

    def _without_line_end(self, greeting: bytes) -> bytes:
        for end in self._line_ends:
            if greeting.endswith(end):
                return greeting[: -len(end)]
        return greeting

    def _named(self, protocol: TalkingProtocol, visit: Visit, name: str) -> Visit:
        needs = self.greeter.needs
        return evolve(
            visit,
            name=name,
            when=time.time() if "when" in needs else visit.when,
            path=path_facts(protocol.transport) if "path" in needs else None,
        )

    def finish(self) -> None:
        """The service stops: answer what was received, and close."""
        for protocol in tuple(self._deadlines):
            cast(TalkingProtocol, protocol).finish()

    def failed(self, error: BaseException) -> _Fault:
        """What a connection ends with because `TalkingProtocol.reply` raised."""
        if isinstance(error, GreeterFailed):  # that is logged and counted already
            return "no greeting can be made", "greeter"
        self._failures.tell("The protocol {protocol} failed", error, protocol=self.protocol.__name__)
        return "no answer can be made", "protocol"


@frozen(eq=False)
class TalkingPlugin:
    """A talking protocol with its options, for stream listeners."""

    protocol: type[TalkingProtocol]
    framing: Framing
    limits: Limits
    options: Mapping[str, Any]

    def stream(self, context: Context) -> TalkingFactory:
        """The factory of a stream listener."""
        return TalkingFactory(self, context)


def _number(name: str, value: str) -> int:
    lowest, highest = _RANGES[name]
    if not (value.isascii() and value.isdigit() and len(value) < 20 and lowest <= int(value) <= highest):
        raise ValueError(f"{name} must be a whole number from {lowest} to {highest}, not {value!r}")
    return int(value)


def _no_answer(answer: object) -> TypeError:
    """What `reply` returned is neither text nor bytes."""
    if isinstance(answer, Coroutine):
        answer.close()  # else Python warns that it was never awaited
        return TypeError("reply() is a coroutine function: it must return text or bytes itself")
    return TypeError(f"reply() returned {shortened(repr(answer), 100)}, which is neither text nor bytes")
