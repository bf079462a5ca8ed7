"""When a worker that ended is replaced. No processes, no time."""

from __future__ import annotations

from attrs import define

__all__ = ["Backoff"]

_STEADY = 10.0
"""A worker that ran for so many seconds started correctly: it is replaced at once."""

_FIRST, _LONGEST = 0.1, 10.0
"""Seconds before the second try, which double from try to try, and the most."""


@define
class Backoff:
    """Counts in ``failures`` how many workers in a row ended soon after their start."""

    failures: int = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait before the next worker starts, now that one ended which lived so long.

        The first is replaced at once, so that one killed worker leaves no gap.
        """
        if lived >= _STEADY:
            self.failures = 0
            return 0.0
        self.failures += 1
        return 0.0 if self.failures == 1 else min(_LONGEST, _FIRST * 2 ** min(self.failures - 2, 16))
