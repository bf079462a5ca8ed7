"""The timeline of one probe: its deadline, the step it is in, how long the steps took, and its trace."""

from __future__ import annotations

import time
from collections.abc import Callable

from greetsvc.client.handshake import Handshake, judge
from greetsvc.client.icmp import Icmp
from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import PathChanges, Sent, compare
from greetsvc.client.result import Attempt, Closed, Exchange, GreetFailed, Greeting, Phase, Seconds, Talked
from greetsvc.client.target import Target, format_address
from greetsvc.printable import one_line, shortened
from greetsvc.visit import Address
from greetsvc.wire import PathRecord, decode_record

__all__ = ["Timeline", "Trace"]

Trace = Callable[[str], None]
"""Takes a line for each step, in the manner of curl: ``* connected``, ``> request``, ``< answer``."""

_MAX_NOTES = 8
_LONGEST = 600
"""Remarks about one probe, and characters of a remark, of an error and of a greeting in the trace."""

_CLOSINGS: dict[Closed, str] = {
    "fin": "closed by the server",
    "reset": "the connection was reset",
    "timeout": "not closed by the server in time",
}


_TOLD = 3
"""Addresses of a name that are told as not asked."""


class Timeline:
    """What the resolver and the transports record of one probe, and its result. Pure: ``now`` is its only clock."""

    def __init__(
        self,
        target: Target,
        options: ProbeOptions,
        *,
        now: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
    ) -> None:
        self.target = target
        self.options = options
        self.phase: Phase = "resolve"
        self.peer: Address | None = None
        self.sent: Sent | None = None
        self.found: list[Address] = []
        """The addresses of the name, where the target has one; only the first is asked."""
        self.attempts: list[Attempt] = []
        self.cut_short = ""
        self.talk: Talked | None = None
        self.now = now
        self.time = time.time()
        """When the probe began, by the system's clock."""
        self._trace = trace
        self._start = self._entered = now()
        self._ended: float | None = None
        self._took: dict[str, float] = {}
        self._notes: list[str] = []

    @property
    def within(self) -> str:
        """The time-out in words."""
        return f"within {self.options.timeout:g} s"

    def remaining(self) -> float:
        """Seconds left of the time-out; never negative."""
        return max(0.0, self._start + self.options.timeout - self.now())

    def in_phase(self) -> float:
        """Seconds since the present step began."""
        return self.now() - self._entered

    def enter(self, phase: Phase) -> None:
        """A step begins now."""
        self.phase = phase
        self._entered = self.now()

    def leave(self) -> None:
        """The step succeeded; it ends now."""
        self._took[self.phase] = self.now() - self._entered

    def first_byte(self) -> None:
        """The first byte of the greeting has come; later calls change nothing."""
        self._took.setdefault("first_byte", self.now() - self._entered)

    def sent_request(self) -> int:
        """A datagram request was sent; its number, from 0."""
        self.attempts.append(Attempt(self.now() - self._start))
        return len(self.attempts) - 1

    def sent_at(self, number: int) -> float:
        """When a request was sent, on our clock."""
        return self._start + self.attempts[number].time

    def answered(self, number: int, exchange: Exchange | None = None) -> tuple[float, float]:
        """A request was answered, which ends the probe: when it was sent, and when its answer came."""
        self._ended, sent = self.now(), self.sent_at(number)
        self._took["first_byte"] = self._ended - sent
        self.attempts[number] = Attempt(self.attempts[number].time, self._ended - sent, exchange)
        return sent, self._ended

    def withdraw_answer(self) -> tuple[float, float]:
        """It is not known which request was answered; what `answered` gave."""
        assert self._ended is not None
        came, self._ended = self._ended, None
        del self._took["first_byte"]
        self.attempts = [Attempt(attempt.time) for attempt in self.attempts]
        return self.sent_at(-1), came

    def trace(self, mark: str, text: str) -> None:
        """Report a step to the trace, if there is one."""
        if self._trace is not None:
            self._trace(f"{mark} {text}")

    def trace_greeting(self, text: str, size: int) -> None:
        """Report the greeting to the trace."""
        self.trace("<", f"{shortened(one_line(text), _LONGEST)} ({size} bytes)")

    def note(self, text: str) -> None:
        """Keep a remark for the result, once."""
        if len(self._notes) > _MAX_NOTES or text in self._notes:
            return
        text = shortened(text, _LONGEST) if len(self._notes) < _MAX_NOTES else "further remarks are left out"
        self._notes.append(text)
        self.trace("*", text)

    def seconds(self) -> Seconds:
        """What the steps took so far."""
        end = self.now() if self._ended is None else self._ended
        return Seconds(**self._took, total=end - self._start)

    def _asked(self) -> str:
        """Which address of a name was asked, and which were not."""
        if not self.found:
            return ""
        asked, *others = map(format_address, self.found)
        if not others:
            return f"asked {asked}"
        more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
        return (
            f"asked {asked}, the first of {len(self.found)} addresses; not asked: {', '.join(others[:_TOLD])}{more}"
        )

    def failed(self, number: int, why: str, closed: Closed | None = None, *, icmp: Icmp | None = None) -> GreetFailed:
        """The result when the present step failed."""
        why = shortened(why, _LONGEST)
        if self._notes:
            why = f"{why} ({'; '.join(self._notes)})"
        return GreetFailed(
            number,
            why,
            self.phase,
            target=self.target,
            peer=self.peer,
            seconds=self.seconds(),
            closed=closed,
            notes=tuple(self._notes),
            sent=self.sent,
            attempts=tuple(self.attempts),
            asked=self._asked(),
            icmp=icmp,
            time=self.time,
            talk=self.talk,
        )

    def greeted(self, data: bytes, closed: Closed | None = None) -> Greeting:
        """The result when a greeting came."""
        assert self.peer is not None
        text = data.decode(self.options.encoding, "backslashreplace")
        if self.talk is None:  # otherwise it was told when it came
            self.trace_greeting(text, len(data))
        if closed is not None:
            self.trace("*", _CLOSINGS[closed])
        record = decode_record(data)
        path = None if record is None else compare(self.sent or Sent(self.peer), record)
        for note in path.notes if path else ():
            self.trace("*", note.text)
        handshake = self._handshake(record, path)
        if handshake.words:
            self.note(handshake.words)
        return Greeting(
            target=self.target,
            data=data,
            text=text,
            seconds=self.seconds(),
            peer=self.peer,
            closed=closed,
            notes=tuple(self._notes),
            path=path,
            sent=self.sent,
            attempts=tuple(self.attempts),
            cut_short=self.cut_short,
            time=self.time,
            talk=self.talk,
            handshake=handshake,
        )

    def _handshake(self, record: PathRecord | None, path: PathChanges | None) -> Handshake:
        """What was lost of the handshake. Behind a proxy, the server counted that of the proxy."""
        there = record.tcp if record is not None and path is not None and path.proxy is False else None
        return judge(
            self.sent,
            connect=self._took.get("connect"),
            # A server that speaks first does so when it is connected; under TLS it waits for us.
            first_byte=None if self.target.transport == "tls" else self._took.get("first_byte"),
            server_rtt=None if there is None else there.rtt_us / 1e6,
            server_repeats=None if there is None else there.retransmits,
        )
