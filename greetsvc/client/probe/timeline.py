"""The timeline of one probe: how long its steps took, what was sent, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable

from greetsvc.client.evidence.handshake import Handshake, judge
from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import PathChanges, Sent, compare
from greetsvc.client.probe.steps import LONGEST, Steps, Trace
from greetsvc.client.result import Attempt, Exchange, GreetFailed, Greeting, Seconds, Talked
from greetsvc.client.target import Target
from greetsvc.client.words import Closed
from greetsvc.printable import one_line, shortened
from greetsvc.wire import PathRecord, decode_record

__all__ = ["Timeline"]

_CLOSINGS: dict[Closed, str] = {
    "fin": "closed by the server",
    "reset": "the connection was reset",
    "timeout": "not closed by the server in time",
}


class Timeline(Steps):
    """What the resolver and the transports record of one probe, and its result."""

    options: ProbeOptions

    def __init__(
        self,
        target: Target,
        options: ProbeOptions,
        *,
        now: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(target, options, now=now, trace=trace)
        self.sent: Sent | None = None
        self.attempts: list[Attempt] = []
        self.talk: Talked | None = None
        self.time = time.time()
        """When the probe began, by the system's clock."""
        self._ended: float | None = None

    def sent_request(self, began: float) -> int:
        """A datagram request was sent; ``began`` is our clock before that. Its number, from 0.

        After that, a busy system may have let us wait, and the answer would seem to have come too soon.
        """
        self.attempts.append(Attempt(began - self._start))
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

    def trace_greeting(self, text: str, size: int) -> None:
        """Report the greeting to the trace."""
        self.trace("<", f"{shortened(one_line(text), LONGEST)} ({size} bytes)")

    def seconds(self) -> Seconds:
        """What the steps took so far."""
        end = self.now() if self._ended is None else self._ended
        return Seconds(**self._took, total=end - self._start)

    def failed(self, number: int, why: str, closed: Closed | None = None, *, icmp: Icmp | None = None) -> GreetFailed:
        """The result when the present step failed."""
        return GreetFailed(
            number,
            self.reason(why),
            self.phase,
            target=self.target,
            peer=self.peer,
            seconds=self.seconds(),
            closed=closed,
            notes=tuple(self._notes),
            sent=self.sent,
            attempts=tuple(self.attempts),
            asked=self.asked(),
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
