"""Many deadlines of equal length, on one timer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Deadlines"]

_log = Logger()

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """Calls ``expired(key)`` for each key that was not discarded within ``seconds`` of being added.

    As all deadlines are equally long, they end in the order of adding: a dictionary and one timer are enough. The
    timer is not cancelled when no key is left, so that keys which come and go within one turn do not each cost a
    timer; it finds nothing to do when it fires.
    """

    def __init__(self, clock: IReactorTime, seconds: float, expired: Callable[[Key], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._ends: dict[Key, float] = {}
        self._timer: IDelayedCall | None = None

    def __iter__(self) -> Iterator[Key]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, key: Key, spent: float = 0.0) -> None:
        """Start (or restart) the deadline of ``key``, of which ``spent`` seconds are over.

        They end in the order of adding all the same: a key that would end before an earlier one waits for it.
        """
        left = max(self._seconds - spent, 0.0)
        self._ends.pop(key, None)
        self._ends[key] = self._clock.seconds() + left
        if self._timer is None:
            self._timer = self._clock.callLater(left, self._sweep)

    def discard(self, key: Key) -> None:
        """Drop the deadline of ``key``, if it has one."""
        self._ends.pop(key, None)

    def stop(self) -> None:
        """Drop every deadline, and leave no timer behind."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        due = []
        for key, end in self._ends.items():
            if end > now:
                self._timer = self._clock.callLater(end - now, self._sweep)
                break
            due.append(key)
        for key in due:
            self._ends.pop(key, None)
        for key in due:
            try:
                self._expired(key)
            except Exception:  # noqa: BLE001 - the other deadlines have passed too
                _log.failure("A deadline passed, but its callback raised")
