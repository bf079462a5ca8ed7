"""When the probes of a load run start: as soon as one of N is free, or at intended times. Pure."""

from __future__ import annotations

import math

from attrs import define, field, frozen

from greetsvc.client.options import MAX_CONCURRENCY, MAX_RATE, MAX_SECONDS, check_above_0, check_range
from greetsvc.errors import ConfigError

__all__ = ["LATE", "LoadOptions", "Schedule"]

_CLOSED_CONCURRENCY = 16
_OPEN_CONCURRENCY = 1024

LATE = 0.01
"""A probe that starts more than this many seconds after its intended time is counted as late."""


@frozen
class LoadOptions:
    """How much load a run makes: for ``duration`` seconds, with ``concurrency`` in flight, at ``rate`` a second.

    Without ``rate`` the loop is closed: when one of the N probes ends, the next starts. With ``rate`` it is open:
    probes have intended times, and N is the maximum in flight. ``concurrency`` None means 16, or 1024 with a rate.

    :raises ConfigError: for a number that is out of range.
    """

    duration: float
    concurrency: int | None = None
    rate: float | None = None

    def __attrs_post_init__(self) -> None:
        check_above_0("duration", self.duration, MAX_SECONDS, "seconds")
        check_range("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        check_above_0("rate", self.rate, MAX_RATE, "a second")

    def max_in_flight(self, descriptors: float) -> int:
        """The maximum in flight, when this process may open ``descriptors`` more files.

        :raises ConfigError: when ``concurrency`` was set, and to more than that.
        """
        if self.concurrency is None:
            return max(1, int(min(_CLOSED_CONCURRENCY if self.rate is None else _OPEN_CONCURRENCY, descriptors)))
        if self.concurrency > descriptors:
            room = max(0, int(descriptors))
            why = f"this process may open too few files for it: {room} besides those of its own (ulimit -n)"
            raise ConfigError(why, name="concurrency", value=self.concurrency)
        return self.concurrency


@define
class Schedule:
    """The intended times of an open loop: ``start``, then every ``1 / rate`` seconds until ``duration`` is over.

    Each is computed from the start, so that nothing drifts. ``late`` counts the probes that started more than 10 ms
    late, ``waited`` those of them that were due while all N were in flight; ``worst`` is the greatest delay, in
    seconds.
    """

    start: float
    rate: float
    duration: float
    started: int = 0
    late: int = 0
    waited: int = 0
    worst: float = 0.0
    total: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = max(1, math.ceil(round(self.rate * self.duration, 6)))

    @property
    def next(self) -> float:
        """The intended time of the next probe; infinite when there is none."""
        return self.start + self.started / self.rate if self.started < self.total else math.inf

    def start_next(self, now: float, *, waited: bool) -> float:
        """Start the next probe now; its intended time. ``waited``: all N were in flight when it was due."""
        intended = self.start + self.started / self.rate
        self.started += 1
        delay = now - intended
        if delay > LATE:
            self.late += 1
            self.waited += waited
        self.worst = max(self.worst, delay)
        return intended
