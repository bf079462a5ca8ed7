"""How far one probe has come: its deadline, the step it is in, how long the steps took, what it says on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from greetsvc.client.outgoing import AS_EVER, Outgoing
from greetsvc.client.path import judge
from greetsvc.client.result import Closed, GreetFailed, Greeting, Phase, Seconds
from greetsvc.client.sent import Sent
from greetsvc.client.target import Target
from greetsvc.printable import one_line
from greetsvc.visit import Address
from greetsvc.wire import decode_record

__all__ = ["Progress", "Trace"]

Trace = Callable[[str], None]
"""Takes a line for each step, in the manner of curl: ``* connected``, ``> request``, ``< answer``."""

_CLOSINGS: dict[Closed, str] = {
    "fin": "closed by the far end",
    "reset": "reset by the far end",
    "timeout": "not closed by the far end in time",
}


class Progress:
    """The account that resolver, transports and verdict share. Pure: ``now`` is the only clock it knows."""

    def __init__(
        self,
        target: Target,
        timeout: float,
        *,
        now: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
        outgoing: Outgoing = AS_EVER,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self.phase: Phase = "resolve"
        self.peer: Address | None = None
        self.outgoing = outgoing
        self.sent: Sent | None = None
        self._now = now
        self._trace = trace
        self._start = self._entered = now()
        self._took: dict[str, float] = {}
        self._notes: list[str] = []

    def remaining(self) -> float:
        """Seconds left of the time-out; never negative."""
        return max(0.0, self._start + self.timeout - self._now())

    def enter(self, phase: Phase) -> None:
        """The next step begins now."""
        self.phase = phase
        self._entered = self._now()

    def leave(self) -> None:
        """The step worked; it ends now."""
        self._took[self.phase] = self._now() - self._entered

    def first_byte(self) -> None:
        """The greeting's first byte has come; later calls change nothing."""
        self._took.setdefault("first_byte", self._now() - self._entered)

    def say(self, mark: str, text: str) -> None:
        """Tell whoever watches the steps."""
        if self._trace is not None:
            self._trace(f"{mark} {text}")

    def note(self, text: str) -> None:
        """Keep a remark for the verdict, once."""
        if text not in self._notes:
            self._notes.append(text)
            self.say("*", text)

    def seconds(self) -> Seconds:
        """What the steps took so far."""
        took = self._took
        return Seconds(
            resolve=took.get("resolve"),
            connect=took.get("connect"),
            tls=took.get("tls"),
            first_byte=took.get("first_byte"),
            total=self._now() - self._start,
        )

    def failed(self, number: int, why: str, closed: Closed | None = None) -> GreetFailed:
        """The verdict that the present step failed."""
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
        )

    def greeted(self, data: bytes, encoding: str, closed: Closed | None = None) -> Greeting:
        """The verdict that a greeting came."""
        assert self.peer is not None
        text = data.decode(encoding, "backslashreplace")
        self.say("<", f"{one_line(text)} ({len(data)} bytes)")
        if closed is not None:
            self.say("*", _CLOSINGS[closed])
        record = decode_record(data)
        path = None if record is None else judge(self.sent or Sent(self.peer), record)
        for remark in path.remarks if path else ():
            self.say("*", remark.text)
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
        )
