"""How much the times differ from one greeting to the next. Pure."""

from __future__ import annotations

__all__ = ["Jitter"]


class Jitter:
    """The mean absolute difference between the times of one greeting and the next.

    RFC 3550 (6.4.1) takes the same differences and smooths them with a gain of 1/16, which begins at zero and says
    little of a short run; here it is their plain mean. A probe that is lost is left out: the next greeting is held
    against the last one that came.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._total = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """The time of the next greeting."""
        if self._last is not None:
            self._total += abs(seconds - self._last)
            self._count += 1
        self._last = seconds

    @property
    def value(self) -> float | None:
        """Seconds; None before there are two greetings."""
        return self._total / self._count if self._count else None
