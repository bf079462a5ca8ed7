"""Many equal deadlines kept with one timer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Deadlines"]

_log = Logger()

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """Calls ``expired(key)`` for each key that was not discarded within ``seconds`` of being added.

    As all wait equally long, they end in the order in which they were added: a dictionary and one timer are
    enough. The timer runs on when nothing waits any more, and finds so when it fires: keys that come and go within
    one turn cost no timer each.
    """

    def __init__(self, clock: IReactorTime, seconds: float, expired: Callable[[Key], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._ends: dict[Key, float] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._ends)

    def add(self, key: Key, spent: float = 0.0) -> None:
        """Start (or start again) the time of ``key``, of which ``spent`` seconds are over.

        It may end later by as much as ``spent`` is more than for another key that was added before.
        """
        left = max(self._seconds - spent, 0.0)
        self._ends.pop(key, None)
        self._ends[key] = self._clock.seconds() + left
        if self._timer is None:
            self._timer = self._clock.callLater(left, self._sweep)

    def discard(self, key: Key) -> None:
        """``key`` is done, or was never there."""
        self._ends.pop(key, None)

    def stop(self) -> None:
        """Forget every key, and the timer."""
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
            except Exception:  # noqa: BLE001 - the others end all the same
                _log.failure("A deadline passed, but whoever wanted to know failed")
