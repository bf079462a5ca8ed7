"""Probes of one target at a fixed interval."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from greetsvc.client.options import DEFAULT_INTERVAL, MAX_SECONDS, ProbeOptions, check_range
from greetsvc.client.probe.datagram.history import PortHistory
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.reactor import installed_reactor
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.errors import ConfigError

__all__ = ["greet_many", "repeat", "result_of"]

T = TypeVar("T")


async def result_of(probe: Awaitable[Greeting]) -> Greeting | GreetFailed:
    """The result of a probe, with a failure returned rather than raised."""
    try:
        return await probe
    except GreetFailed as failed:
        return failed


async def repeat(
    action: Callable[[], Awaitable[T]],
    *,
    count: int,
    interval: float,
    clock: IReactorTime,
    now: Callable[[], float],
) -> AsyncIterator[T]:
    """Run ``action`` ``count`` times (0: without end), one at a time, and yield what it returns.

    Starts are ``interval`` seconds apart and do not drift. An action that takes longer delays the next, and the
    schedule goes on from there: nothing is caught up in a burst.
    """
    done = 0
    start = now()
    while True:
        yield await action()
        done += 1
        if done == count:
            return
        start = max(start + interval, now())
        # Wait even when it is due: probes that fail at once would keep the reactor from handling signals.
        await deferLater(clock, max(0.0, start - now()))


def greet_many(
    target: str | Target = DEFAULT_HOST,
    *,
    count: int = 0,
    interval: float = DEFAULT_INTERVAL,
    reactor: Any = None,
    **options: Any,
) -> AsyncIterator[Greeting | GreetFailed]:
    """Probe ``target`` again and again and yield each result; a failure is not raised.

    :param count: number of probes; 0: until you leave the loop.
    :param interval: seconds from start to start; a probe that takes longer delays the next.
    :param options: as for `greetsvc.greet`: ``timeout family size encoding limit tls talk trace``.
    :raises ValueError: at once, when the target or an option is wrong.
    """
    trace = options.pop("trace", None)
    probe = Probe(parse(target), ProbeOptions(**options), PortHistory())
    if count < 0:
        raise ConfigError("must not be negative", name="count", value=count)
    check_range("interval", interval, 0, MAX_SECONDS, " seconds")
    reactor = reactor or installed_reactor()

    def run_once() -> Awaitable[Greeting | GreetFailed]:
        return result_of(probe.run(trace=trace, reactor=reactor))

    async def results() -> AsyncIterator[Greeting | GreetFailed]:
        try:
            async for result in repeat(run_once, count=count, interval=interval, clock=reactor, now=time.monotonic):
                yield result
        finally:
            probe.close()

    return results()
