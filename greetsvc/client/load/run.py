"""From Python: greeting after greeting as an async iterator, and a load run with its histogram."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from greetsvc.client.histogram import Histogram
from greetsvc.client.load.connections import Asker, Streams
from greetsvc.client.load.datagrams import Datagrams
from greetsvc.client.load.engine import EachSecond, Judge, Load
from greetsvc.client.load.metrics import Account
from greetsvc.client.load.pacing import Loading, Paced
from greetsvc.client.load.polling import Poller, poller
from greetsvc.client.probe.greet import Asking, ask
from greetsvc.client.probe.resolve import find
from greetsvc.client.probe.series import outcomes
from greetsvc.client.probe.timeline import Progress
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Demands
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.client.tls import ClientTls
from greetsvc.errors import ConfigError
from greetsvc.net.descriptors import remaining
from greetsvc.printable import without_line_end
from greetsvc.wire import request

__all__ = ["Run", "greet_many"]

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}

_REMEMBERED = 1000
"""How many different greetings are remembered as matching or not; beyond that each is matched again."""


def greet_many(
    target: str | Target = DEFAULT_HOST, *, count: int = 0, interval: float = 1.0, reactor: Any = None, **options: Any
) -> AsyncIterator[Greeting | GreetFailed]:
    """Ask ``target`` again and again; each outcome is yielded, and a failure is not raised.

    :param count: how many; 0: until you leave the loop.
    :param interval: seconds from start to start; a probe that takes longer delays the next.
    :param options: as for `greetsvc.greet`: ``timeout family size encoding limit tls trace``.
    :raises ValueError: at once, for a target or a setting that cannot be.
    """
    asked = target if isinstance(target, Target) else parse(target)
    trace = options.pop("trace", None)
    asking = Asking(**options)
    asking.check(asked)
    if count < 0:
        raise ConfigError("must not be negative", name="count", value=count)
    if not 0 <= interval <= 86400:
        raise ConfigError("must be from 0 to 86400 seconds", name="interval", value=interval)
    if reactor is None:
        from twisted.internet import reactor

    async def probe() -> Greeting:
        return await ask(asked, asking, trace=trace, reactor=reactor)

    return outcomes(probe, count=count, interval=interval, clock=reactor, now=time.monotonic)


class Run:
    """A load run: ``await Run("udp:127.0.0.1:8088", duration=10, concurrency=64).go()``.

    Without ``rate`` each of ``concurrency`` (16) visits begins anew when it was answered; with ``rate``, visits a
    second, they begin at intended times, and ``concurrency`` (1024) bounds how many are in flight. A name is looked
    up once. ``expect`` and ``warn`` (seconds) make greetings *flawed*; the rest is as for `greetsvc.greet`.

    :raises ValueError: for a target or a setting that cannot be; nothing was sent.
    """

    def __init__(
        self,
        target: str | Target = DEFAULT_HOST,
        *,
        duration: float,
        concurrency: int | None = None,
        rate: float | None = None,
        timeout: float = 5.0,
        family: Literal[4, 6] | None = None,
        size: int = 1200,
        encoding: str = "utf-8",
        limit: int = 65536,
        tls: ClientTls | None = None,
        expect: str | re.Pattern[str] | None = None,
        warn: float | None = None,
    ) -> None:
        self.target = target if isinstance(target, Target) else parse(target)
        asking = Asking(timeout=timeout, family=family, size=size, encoding=encoding, limit=limit, tls=tls)
        demands = Demands(expect=None if expect is None else _compiled(expect), warn=warn)
        self._prepare(asking, Loading(duration, concurrency, rate), demands)

    @classmethod
    def of(cls, target: Target, asking: Asking, loading: Loading, demands: Demands) -> Run:
        """A run of settings that were checked before."""
        run = cls.__new__(cls)
        run.target = target
        run._prepare(asking, loading, demands)
        return run

    def _prepare(self, asking: Asking, loading: Loading, demands: Demands) -> None:
        asking.check(self.target)
        self.asking = asking
        self.loading = loading
        self.account = Account()
        self.concurrency = loading.slots(remaining())
        self._judge = _judge(demands, asking.encoding)

    @property
    def histogram(self) -> Histogram:
        """How long the greetings took, from the intended start where there is a rate."""
        return self.account.corrected

    async def go(self, each_second: EachSecond | None = None, *, reactor: Any = None) -> Run:
        """Carry it out; ``account`` and ``histogram`` tell what came of it, also while it runs and when cancelled.

        :param each_second: called with the number of a second that is over, its counts, and how many are in flight.
        :raises GreetFailed: when the name cannot be looked up.
        """
        if reactor is None:
            from twisted.internet import reactor
        watched = poller()
        try:
            asker = await self._asker(watched, reactor)
        except BaseException:
            watched.close()
            raise
        start = time.monotonic()
        loading = self.loading
        paced = None if loading.rate is None else Paced(start, loading.rate, loading.duration)
        self.account = Account() if paced is None else Account.open(paced)
        load = Load(
            asker,
            watched,
            self.account,
            duration=loading.duration,
            slots=self.concurrency,
            timeout=self.asking.timeout,
            reactor=reactor,
            judge=self._judge,
            each_second=each_second,
            start=start,
        )
        await load.run()
        return self

    async def _asker(self, watched: Poller, reactor: Any) -> Asker:
        target, asking = self.target, self.asking
        remote = target.path or await find(Progress(target, asking.timeout), _FAMILIES[asking.family], reactor)
        if target.datagram:
            return Datagrams(remote, request(os.urandom(8).hex(), asking.size), asking.limit, watched)
        if target.transport != "tls" or isinstance(remote, str):
            return Streams(remote, asking.limit, watched)
        from greetsvc.client.load.tls import TlsStreams

        return TlsStreams(remote, asking.limit, watched, asking.tls or ClientTls(), target.host)


def _compiled(expect: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(expect)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"is no regular expression: {error}", name="expect", value=expect) from None


def _judge(demands: Demands, encoding: str) -> Judge | None:
    """What decides whether a greeting is as it should be; None where nothing is demanded."""
    expect, warn = demands.expect, demands.warn
    known: dict[bytes, bool] = {}

    def matches(pattern: re.Pattern[str], data: bytes) -> bool:
        found = known.get(data)
        if found is None:
            found = bool(pattern.search(without_line_end(data.decode(encoding, "backslashreplace"))))
            if len(known) < _REMEMBERED:
                known[data] = found
        return found

    def good(data: bytes, seconds: float) -> bool:
        return not (warn is not None and seconds > warn) and (expect is None or matches(expect, data))

    return None if expect is None and warn is None else good
