"""When the visits of a load run begin: as soon as one of N is free, or at intended times. Pure."""

from __future__ import annotations

import math

from attrs import define, field, frozen

from greetsvc.client.bounds import LONGEST_DURATION, MOST_CONCURRENT, MOST_RATE
from greetsvc.errors import ConfigError

__all__ = ["LATE", "Loading", "Paced"]

_CLOSED_CONCURRENCY = 16
_OPEN_CONCURRENCY = 1024

LATE = 0.01
"""A visit that begins more than this many seconds after its intended time is counted as late."""


@frozen
class Loading:
    """How hard a run asks: for ``duration`` seconds, ``concurrency`` at once, ``rate`` a second.

    Without ``rate`` the loop is closed: each of the N asks again when it was answered. With ``rate`` it is open:
    visits have intended times, and N bounds how many are in flight. ``concurrency`` None means 16, or 1024 with a
    rate.

    :raises ConfigError: for what cannot be.
    """

    duration: float
    concurrency: int | None = None
    rate: float | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 < self.duration <= LONGEST_DURATION:
            raise ConfigError(
                f"must be more than 0 and at most {LONGEST_DURATION:g} seconds", name="duration", value=self.duration
            )
        if self.concurrency is not None and not 1 <= self.concurrency <= MOST_CONCURRENT:
            raise ConfigError(f"must be from 1 to {MOST_CONCURRENT}", name="concurrency", value=self.concurrency)
        if self.rate is not None and not 0 < self.rate <= MOST_RATE:
            raise ConfigError(
                f"must be more than 0 and at most {MOST_RATE:.10g} a second", name="rate", value=self.rate
            )

    def slots(self, room: float) -> int:
        """How many may be in flight, when this process may open ``room`` more files.

        :raises ConfigError: when it was told to have more than that.
        """
        if self.concurrency is None:
            return max(1, int(min(_CLOSED_CONCURRENCY if self.rate is None else _OPEN_CONCURRENCY, room)))
        if self.concurrency > room:
            raise ConfigError(
                f"this process may open {max(0, int(room))} more files", name="concurrency", value=self.concurrency
            )
        return self.concurrency


@define
class Paced:
    """The intended times of an open loop: ``start``, and then every ``1 / rate`` seconds until ``duration`` is over.

    Each is computed from the start, so that nothing drifts. ``late`` counts what began more than 10 ms late,
    ``stuck`` those of them that had to wait for one of the N to be free; ``worst`` is the greatest delay, in seconds.
    """

    start: float
    rate: float
    duration: float
    taken: int = 0
    late: int = 0
    stuck: int = 0
    worst: float = 0.0
    total: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = max(1, math.ceil(round(self.rate * self.duration, 6)))

    @property
    def next(self) -> float:
        """The intended time of the next visit; infinite when there is none."""
        return self.start + self.taken / self.rate if self.taken < self.total else math.inf

    def take(self, now: float, *, waited: bool) -> float:
        """The next visit begins now; its intended time. ``waited``: all N were in flight when it was due."""
        intended = self.start + self.taken / self.rate
        self.taken += 1
        delay = now - intended
        if delay > LATE:
            self.late += 1
            self.stuck += waited
        self.worst = max(self.worst, delay)
        return intended
