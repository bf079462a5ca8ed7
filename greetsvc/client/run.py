"""Probe after probe at a fixed rate, until there were enough of them or somebody says stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from greetsvc.client.verdict import GreetFailed, Greeting

__all__ = ["repeat"]


async def repeat(
    probe: Callable[[], Awaitable[Greeting]],
    each: Callable[[int, Greeting | GreetFailed], None],
    *,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> None:
    """Run ``count`` probes (0: until cancelled), one at a time, and tell ``each`` its number and outcome.

    Starts are ``interval`` seconds apart and do not drift; a probe that takes longer delays the next, and the
    schedule goes on from there rather than catching up in a burst.
    """
    number = 0
    start = now()
    while True:
        number += 1
        try:
            outcome: Greeting | GreetFailed = await probe()
        except GreetFailed as failed:
            outcome = failed
        each(number, outcome)
        if number == count:
            return
        start = max(start + interval, now())
        # Also when it is due: probes that fail without waiting would keep the reactor from hearing of signals.
        await deferLater(clock, start - now() if start > now() else 0)
