"""Wait for a bounded time until something holds: blocking (`wait_until`), or while the reactor runs (`until`).

The bound is far above what a busy machine needs. It is there to end a test that hangs, and says nothing about speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.task import deferLater

PATIENCE = 30.0
"""Seconds."""
PAUSE = 0.01
"""Seconds between two looks."""

Seen = TypeVar("Seen")
Words = str | Callable[[], str]


def wait_until(holds: Callable[[], Seen], otherwise: Words = "it did not happen", patience: float = PATIENCE) -> Seen:
    """Block until ``holds()`` is true, and return its result; fail with ``otherwise`` after ``patience`` seconds."""
    end = time.monotonic() + patience
    while not (seen := holds()):
        assert time.monotonic() < end, _text(otherwise)
        time.sleep(PAUSE)
    return seen


async def until(
    holds: Callable[[], Seen], otherwise: Words = "it did not happen", patience: float = PATIENCE
) -> Seen:
    """As `wait_until`, while the reactor runs."""
    end = time.monotonic() + patience
    while not (seen := holds()):
        assert time.monotonic() < end, _text(otherwise)
        await deferLater(reactor, PAUSE, lambda: None)
    return seen


def _text(words: Words) -> str:
    return words if isinstance(words, str) else words()
