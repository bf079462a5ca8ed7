"""The account of a run: how many were greeted, how long it took, and what exit status that earns. Pure."""

from __future__ import annotations

import re
from collections import Counter

from attrs import define, field, frozen

from greetsvc.client.histogram import Histogram
from greetsvc.client.jitter import Jitter
from greetsvc.client.probe.flows import Flows
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.printable import one_line, without_line_end

__all__ = ["FLAWED", "GREETED", "NOT_GREETED", "WRONG_USAGE", "Demands", "Tally"]

GREETED = 0
FLAWED = 1
NOT_GREETED = 2
WRONG_USAGE = 3
"""The exit statuses of `greet`; 3 is also for what kept it from doing its work, as UNKNOWN is in monitoring."""


@frozen
class Demands:
    """What a greeting must be besides there: matching ``expect``, and not slower than ``warn`` seconds."""

    expect: re.Pattern[str] | None = None
    warn: float | None = None

    def complaints(self, greeting: Greeting) -> list[str]:
        """What is wrong with a greeting that came, a line each. Its line end does not take part in the matching."""
        found = []
        if self.expect is not None and not self.expect.search(without_line_end(greeting.text)):
            found.append(f"not as expected: nothing matches {one_line(self.expect.pattern)}")
        if self.warn is not None and greeting.seconds.total > self.warn:
            found.append(f"slow: {greeting.seconds.total * 1000:.3f} ms, more than {self.warn * 1000:g} ms")
        return found


@define
class Tally:
    """Counts over a run. ``elapsed`` is its length so far, in seconds.

    ``replicas`` counts the instances that answered; ``late`` has, by how many SYNs it took, the seconds to connect;
    ``flows`` the losses by flow, where there are several; ``jitter`` how much the times differ from one to the next.
    """

    sent: int = 0
    greeted: int = 0
    flawed: int = 0
    elapsed: float = 0.0
    seconds: Histogram = field(factory=Histogram)
    replicas: Counter[str] = field(factory=Counter)
    late: dict[int, list[float]] = field(factory=dict)
    flows: Flows | None = None
    jitter: Jitter = field(factory=Jitter)

    @property
    def lost(self) -> int:
        """How many were not greeted."""
        return self.sent - self.greeted

    @property
    def rate(self) -> float:
        """Greetings per second."""
        return self.greeted / self.elapsed if self.elapsed > 0 else 0.0

    def add(self, outcome: Greeting | GreetFailed, complaints: list[str]) -> None:
        """Count one probe."""
        self.sent += 1
        if isinstance(outcome, GreetFailed):
            return
        self.greeted += 1
        self.flawed += bool(complaints)
        self.seconds.add(outcome.seconds.total)
        self.jitter.add(outcome.seconds.total)
        if outcome.path is not None:
            self.replicas[outcome.path.instance] += 1
        syns = outcome.sent.syns if outcome.sent else None
        if syns is not None and syns > 1:
            self.late.setdefault(syns, []).append(outcome.seconds.connect or 0.0)

    @property
    def status(self) -> int:
        """The exit status: 0 greeted, 1 greeted with a flaw or a loss, 2 not greeted."""
        if not self.greeted:
            return NOT_GREETED
        return FLAWED if self.lost or self.flawed else GREETED
