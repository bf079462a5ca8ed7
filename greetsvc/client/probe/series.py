"""Probe after probe at a fixed rate, until there were enough of them or somebody says stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from greetsvc.client.result import GreetFailed, Greeting

__all__ = ["outcomes", "repeat"]


async def outcomes(
    probe: Callable[[], Awaitable[Greeting]],
    *,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> AsyncIterator[Greeting | GreetFailed]:
    """Run ``count`` probes (0: without end), one at a time, and yield what came of each.

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
        yield outcome
        if number == count:
            return
        start = max(start + interval, now())
        # Also when it is due: probes that fail without waiting would keep the reactor from hearing of signals.
        await deferLater(clock, start - now() if start > now() else 0)


async def repeat(
    probe: Callable[[], Awaitable[Greeting]],
    each: Callable[[int, Greeting | GreetFailed], None],
    *,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> None:
    """The same until cancelled, telling ``each`` the number of a probe, from 1, and its outcome."""
    number = 0
    async for outcome in outcomes(probe, count=count, interval=interval, clock=clock, now=now):
        number += 1
        each(number, outcome)
