"""The tests. In memory they drive the plugin step by step; over sockets they talk to the service in a process."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import ClassVar, cast
from unittest import SkipTest

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from greetsvc.protocols.plain import HostingProtocol
from greetsvc.protocols.registry import StreamPlugin, find_protocol, made_factory
from greetsvc.testing.memory import DEADLINE, MemoryPeer, context
from greetsvc.testing.served import DEADLINE as SERVED_DEADLINE
from greetsvc.testing.served import Served, exchange, read_all, read_exactly, reset
from greetsvc.testing.wires import Wire, wire_of

__all__ = ["Conformance"]

_MANY = 2000
"""Messages that are sent to a protocol whose peer does not read."""

_PATIENCE = 120
"""Seconds, of a clock that does not wait, in which everything must be answered."""

_MOST_BUFFERED = 1 << 20
"""Bytes that may wait for a peer that does not read, besides two answers: answers not sent, input not answered."""

_MOST_ANSWERED = 4 << 20
"""Bytes of answers that are asked for at once: fewer messages are sent where answers are long."""


class Conformance:
    """Tests of the protocol that ``plugin`` names, as ``--protocol`` does: ``NAME[:ARGUMENTS]``. Subclass it.

    For a protocol on a framing of its own, set ``wire``: what its peers send. Where that has no ``too_long`` or no
    ``undecodable``, the tests about these are skipped. ``encoding`` is that of the listener.
    """

    plugin: ClassVar[str]
    encoding: ClassVar[str] = "utf-8"
    wire: ClassVar[Wire | None] = None
    _served: ClassVar[Served | None] = None

    # In memory

    def test_a_message_may_come_in_two_pieces_at_every_byte(self) -> None:
        """Segments end anywhere (RFC 9293 3.8)."""
        whole, data = self._answers(), b"".join(self._wire().messages)
        for at in range(len(data) + 1):
            self._answers_whole([data[:at], data[at:]], whole)

    def test_a_message_may_come_byte_by_byte(self) -> None:
        """A slow writer."""
        self._answers_whole([bytes([byte]) for byte in b"".join(self._wire().messages)], self._answers())

    def test_many_messages_in_one_segment_are_answered_in_their_order(self) -> None:
        """A peer need not wait for the answers."""
        self._answers_whole([b"".join(self._wire().messages)], self._answers())

    def test_the_opening_may_come_in_two_pieces_at_every_byte(self) -> None:
        """Where a connection begins with one."""
        opening, greeting = self._needed(self._wire().opening or None), self._greeting()
        for at in range(len(opening)):
            peer, _ = self._peer(opening=opening[:at])
            peer.say(opening[at:])
            assert peer.heard == greeting, f"cut at byte {at}: {bytes(peer.heard)!r}, not {greeting!r}"

    def test_connections_know_nothing_of_each_other(self) -> None:
        """A part of a message stays with its connection."""
        message = self._wire().messages[0]
        first, clock = self._peer()
        second = MemoryPeer(first.protocol.factory, clock)
        second.say(self._wire().opening)
        first.say(message[:-1])
        second.say(message)
        first.say(message[-1:])
        expected = self._greeting() + self._answer(message)
        for heard in (bytes(first.heard), bytes(second.heard)):
            assert heard == expected, f"{heard!r}, not {expected!r}"

    def test_a_visit_is_counted_once(self) -> None:
        """However many messages it has."""
        peer, _ = self._peer()
        for message in self._wire().messages:
            peer.say(message)
        counted = peer.protocol.factory.ledger.greeted.total()
        assert counted == 1, f"one visit was counted {counted} times"

    def test_a_peer_that_does_not_read_is_not_buffered_without_end(self) -> None:
        """And gets everything, in order, when it reads."""
        message = max(self._wire().messages, key=len)
        answer = self._answer(message)
        most = _MOST_BUFFERED + 2 * len(answer)
        asked = 2 * most // len(answer)
        at_once = max(1, min(asked // 4, 4096 // len(message)))
        asked = asked // at_once * at_once
        peer, clock = self._peer(reads=False)
        for _ in range(0, asked, at_once):
            peer.say(message * at_once)
            assert peer.buffered < most, f"{peer.buffered} bytes wait for a peer that does not read"
        assert peer.unread, "a peer that does not read is read from without end"
        peer.read()
        expected = self._greeting() + self._answers_to([message], asked)
        while len(peer.heard) < len(expected) and clock.seconds() < _PATIENCE:
            _let_pass(clock, peer, 5)  # many short answers take as long as the rate of the protocol says
        assert peer.heard == expected, f"{len(peer.heard)} bytes came, not {len(expected)}, or in another order"

    def test_a_message_that_is_too_long_ends_the_connection(self) -> None:
        """With an error, and before much of it was buffered; nothing that follows is answered."""
        wire = self._wire()
        self._ends_with_an_error(self._needed(wire.too_long))
        if wire.endless is not None:
            peer, _ = self._peer()
            for _ in range(1 << 10):
                if peer.closed:
                    break
                peer.say(wire.endless * 1024)
            assert peer.closed, "a message without an end is taken without end"

    def test_text_that_does_not_decode_ends_the_connection(self) -> None:
        """With an error that can be read."""
        self._ends_with_an_error(self._needed(self._wire().undecodable))

    def test_broken_framing_ends_the_connection(self) -> None:
        """With an error that can be read."""
        self._ends_with_an_error(self._needed(self._wire().broken))

    def test_a_silent_peer_is_closed_at_the_deadline_and_a_talking_one_is_not(self) -> None:
        """Each message begins the time anew; a part of one does not, except with `StreamService`, which knows none.

        Such a protocol may be closed in the midst of a message.
        """
        message = self._wire().messages[0]
        peer, clock = self._peer()
        for _ in range(4):
            _let_pass(clock, peer, DEADLINE * 0.75)
            assert not peer.closed, "a talking peer was closed"
            peer.say(message)
        parts = () if isinstance(peer.protocol, HostingProtocol) else (message[:1],)
        for piece in (b"", *parts, b""):
            _let_pass(clock, peer, DEADLINE * (0.4 if parts else 0.6))
            peer.say(piece)
        assert peer.closed, "a silent peer is still connected after the deadline"

    def test_a_half_closing_peer_gets_all_answers(self) -> None:
        """It sends, then its FIN, and reads then (``nc -N``): the FIN may come before the answers could be sent."""
        self._needs_half_close()
        wire, many = self._wire(), self._many(self._wire().messages[0])
        for said, answers in (
            (b"".join(wire.messages), self._answers()),
            (wire.messages[0] * many, self._answers_to(wire.messages[:1], many)),
        ):
            peer, clock = self._peer(reads=False)
            peer.say(said)
            peer.leave()
            peer.read()
            _let_pass(clock, peer, 3)
            heard = peer.heard.removeprefix(self._greeting())
            assert heard.startswith(answers), f"{len(heard)} bytes came, not {len(answers)}"
            assert peer.closed, "the connection was not closed after the peer's FIN"

    def test_a_reset_leaves_nothing_behind(self) -> None:
        """No place of a connection, no timer, no callback."""
        wire = self._wire()
        for said in (b"", wire.messages[0][:-1], b"".join(wire.messages), wire.messages[0] * _MANY):
            for reads in (True, False):
                peer, clock = self._peer(reads=reads)
                factory = peer.protocol.factory
                peer.say(said)
                peer.vanish()
                assert factory.admission.open == 0, "a connection that was reset still counts as open"
                _let_pass(clock, peer, DEADLINE * 3)
                left = clock.getDelayedCalls()
                assert not left, f"a connection that was reset left {left}"

    def test_strange_bytes_raise_nothing(self) -> None:
        """Whatever strangers send, no failure is in the log."""
        source = random.Random(13)  # noqa: S311 - the same bytes in each run
        for said in (*self._wire().strange, *(source.randbytes(source.randrange(1, 200)) for _ in range(200))):
            peer, _ = self._peer()
            with _logged_failures() as failures:
                peer.say(said)
                if not peer.closed:
                    peer.say(b"".join(self._wire().messages))
            assert not failures, f"{said!r} made the protocol fail: {failures[0]}"

    # Over sockets, with the service in a process

    @classmethod
    def teardown_class(cls) -> None:
        """Stop the service."""
        if cls._served is not None:
            cls._served.stop()
            cls._served = None

    def test_over_sockets_pieces_and_segments_change_nothing(self) -> None:
        """One byte at a time, and everything at once."""
        messages, answers = self._wire().messages, self._answers()
        for pieces in ([b"".join(messages)], [bytes([byte]) for byte in b"".join(messages)]):
            with self._socket() as sock:
                for piece in pieces:
                    sock.sendall(piece)
                heard = read_exactly(sock, len(answers))
                assert heard == answers, f"{heard!r} came, and {answers!r} in memory"

    def test_over_sockets_a_slow_reader_gets_everything_in_order(self) -> None:
        """While the service keeps only a part."""
        message = max(self._wire().messages, key=len)
        many = self._many(message)
        answers = self._answers_to([message], many)
        with self._socket() as sock:
            heard = exchange(sock, message * many, len(answers))
        assert heard == answers, f"{len(heard)} bytes came, not {len(answers)}, or in another order"

    def test_over_sockets_a_half_closing_peer_gets_all_answers(self) -> None:
        """And then a FIN."""
        self._needs_half_close()
        messages = self._wire().messages
        rounds = min(100, 1 + _MOST_ANSWERED // len(self._answers()))
        answers = self._answers_to(messages, rounds)
        with self._socket() as sock:
            sock.sendall(b"".join(messages) * rounds)
            sock.shutdown(socket.SHUT_WR)
            heard = read_all(sock)
        assert heard.startswith(answers), f"{len(heard)} bytes came, not {len(answers)}"

    def test_over_sockets_faults_end_one_connection_and_no_other(self) -> None:
        """With an error that arrives, and no reset."""
        wire, message = self._wire(), self._wire().messages[0]
        answer = self._answer(message)
        with self._socket() as other:
            for fault in filter(None, (wire.too_long, wire.undecodable, wire.broken)):
                with self._socket() as sock:
                    sock.sendall(message + fault + message)
                    heard = read_all(sock)
                assert heard.startswith(answer), f"{heard!r} does not begin with the answer {answer!r}"
                assert len(heard) > len(answer), "the connection ended without an error"
            with self._socket() as sock:
                sock.sendall(message[:-1])
                reset(sock)
            other.sendall(message)
            assert read_exactly(other, len(answer)) == answer, "another connection suffered"

    def test_over_sockets_a_silent_peer_is_closed(self) -> None:
        """At the deadline, with a FIN."""
        self._service()
        began = time.monotonic()
        with self._socket() as sock:
            read_all(sock)
        assert time.monotonic() - began >= SERVED_DEADLINE * 0.9, "the connection ended before the deadline"

    def test_over_sockets_a_reload_changes_nothing_for_those_who_talk(self) -> None:
        """In the middle of a message."""
        message = self._wire().messages[0]
        answer = self._answer(message)
        with self._socket() as old:
            old.sendall(message[:-1])
            self._service().reload()
            old.sendall(message[-1:])
            assert read_exactly(old, len(answer)) == answer, "the open connection suffered"
        with self._socket() as new:
            new.sendall(message)
            assert read_exactly(new, len(answer)) == answer, "a new connection is not answered"

    # What they share

    def _wire(self) -> Wire:
        if self.wire is not None:
            return self.wire
        return wire_of(self._plugin(), self.encoding)

    def _plugin(self) -> StreamPlugin:
        found = _found(self.plugin, self.encoding)
        if not isinstance(found, StreamPlugin):
            raise SkipTest(f"{self.plugin} serves datagrams only")
        return found

    def _peer(self, *, reads: bool = True, opening: bytes | None = None) -> tuple[MemoryPeer, Clock]:
        """A connection that was greeted, and the clock of its service."""
        clock = Clock()
        peer = MemoryPeer(made_factory(self._plugin(), context(clock, self.encoding)), clock, reads=reads)
        peer.say(self._wire().opening if opening is None else opening)
        return peer, clock

    def _answers_whole(self, pieces: list[bytes], whole: bytes) -> None:
        peer, _ = self._peer()
        greeted = len(peer.heard)
        for piece in pieces:
            peer.say(piece)
        heard = bytes(peer.heard[greeted:])
        assert heard == whole, f"{pieces!r} was answered with {heard!r}, not {whole!r}"

    def _greeting(self) -> bytes:
        return bytes(self._peer()[0].heard)

    def _answers(self) -> bytes:
        """The answers to all messages, each sent when the one before was answered."""
        return self._said(self._wire().messages)

    def _answers_to(self, messages: Sequence[bytes], times: int) -> bytes:
        """The answers to these messages, said so many times on one connection; they may depend on those before."""
        once, twice = self._said(messages), self._said([*messages] * 2)
        return once * times if twice == once * 2 else self._said([*messages] * times)

    def _said(self, messages: Sequence[bytes]) -> bytes:
        peer, clock = self._peer()
        greeted = len(peer.heard)
        for message in messages:
            before = len(peer.heard)
            peer.say(message)
            if len(peer.heard) == before:
                _let_pass(clock, peer, 1)  # the protocol may have answered enough in this second
            assert len(peer.heard) > before, f"{message!r} was not answered"
        return bytes(peer.heard[greeted:])

    def _answer(self, message: bytes) -> bytes:
        return self._said([message])

    def _many(self, message: bytes) -> int:
        return min(_MANY, 1 + _MOST_ANSWERED // len(self._answer(message)))

    def _needs_half_close(self) -> None:
        if not IHalfCloseableProtocol.providedBy(self._peer()[0].protocol):
            raise SkipTest("the protocol does not half-close")

    def _needed(self, said: bytes | None) -> bytes:
        if said is None:
            raise SkipTest("the wire of this protocol has none")
        return said

    def _ends_with_an_error(self, fault: bytes) -> None:
        message = self._wire().messages[0]
        alone, _ = self._peer()
        alone.say(message)
        alone.say(fault)
        peer, clock = self._peer()
        peer.say(message)
        before = bytes(peer.heard)
        peer.say(fault + message)
        after = bytes(peer.heard)
        assert after.startswith(before)
        assert len(after) > len(before), f"{fault[:60]!r} was not answered with an error"
        assert peer.closed, f"{fault[:60]!r} does not end the connection"
        assert not peer.reset, "the error may be lost in a reset"
        assert after == alone.heard, "a message behind the fault was answered"
        peer.protocol.dataReceived(message)
        _let_pass(clock, peer, 1)
        assert peer.heard == after, "a message was answered after the close"

    def _service(self) -> Served:
        kind = type(self)
        if kind._served is None:
            kind._served = Served(self.plugin, self.encoding)
        return kind._served

    @contextlib.contextmanager
    def _socket(self) -> Iterator[socket.socket]:
        """A connection that was greeted."""
        with self._service().connect() as sock:
            sock.sendall(self._wire().opening)
            greeting = self._greeting()
            heard = read_exactly(sock, len(greeting))
            assert heard == greeting, f"the greeting was {heard!r}, and {greeting!r} in memory"
            yield sock


@cache
def _found(plugin: str, encoding: str) -> object:
    name, _, argument = plugin.partition(":")
    return find_protocol(name, argument, encoding)


@contextlib.contextmanager
def _logged_failures() -> Iterator[list[object]]:
    """The failures that are logged meanwhile."""
    failures: list[object] = []

    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"])

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observer)


def _let_pass(clock: Clock, peer: MemoryPeer, seconds: float = 0.0) -> None:
    """Let time pass in small steps, as a reactor does."""
    end = clock.seconds() + seconds
    while clock.seconds() < end:
        clock.advance(min(0.25, end - clock.seconds()))
        peer.turn()
    peer.turn()
