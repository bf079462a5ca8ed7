"""A load run from Python: `Run`."""

from __future__ import annotations

import errno
import re
import time
from functools import lru_cache
from typing import Any

from greetsvc.client.basics import Family
from greetsvc.client.evidence.direction import Session
from greetsvc.client.load.connections import Streams
from greetsvc.client.load.datagrams import Datagrams
from greetsvc.client.load.engine import EachSecond, Engine, GreetingCheck
from greetsvc.client.load.metrics import LoadMetrics
from greetsvc.client.load.pacing import LoadOptions, Schedule
from greetsvc.client.load.polling import Poller, new_poller
from greetsvc.client.load.requests import Requests
from greetsvc.client.load.talk import Speech, TalkStreams
from greetsvc.client.options import DEFAULTS, ProbeOptions, Talk
from greetsvc.client.probe.datagram.history import PortHistory
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.reactor import installed_reactor
from greetsvc.client.probe.resolve import resolve
from greetsvc.client.probe.stream.talk import talking
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.stats import Expectations, Histogram
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.client.tls import ClientTls
from greetsvc.net.descriptors import remaining
from greetsvc.visit import Address

__all__ = ["Run"]

_MATCHING = 0.1
"""Seconds for matching one greeting: all probes wait meanwhile."""
_MOST = 65536
"""The latest measured requests, whose answers are recognized."""
_REMEMBERED = 4096
"""Of longer greetings it is not remembered whether they match: the far end could fill the memory with them."""


class Run:
    """A load run: ``await Run("udp:127.0.0.1:8088", duration=10, concurrency=64).go()``.

    Without ``rate``, a probe starts when one of ``concurrency`` (16) has ended; with ``rate``, probes a second, they
    start at intended times, and ``concurrency`` (1024) is the maximum in flight. A name is looked up once. ``expect``
    and ``warn`` (seconds) decide which greetings are *flawed*; with ``talk``, a probe is a message and its reply on a
    connection that stays open. The other options are those of `greetsvc.greet`. With ``measure`` (UDP, a ``size``
    over 160 bytes) up to about 1,000 requests a second ask for measured answers, not for greetings, and
    ``metrics.direction`` says which way they were lost. ``peer`` is the address that is asked, once it is known, and
    ``asked`` says in words which others a name has.

    :raises ValueError: when the target or an option is wrong; nothing was sent.
    """

    def __init__(
        self,
        target: str | Target = DEFAULT_HOST,
        *,
        duration: float,
        concurrency: int | None = None,
        rate: float | None = None,
        timeout: float = DEFAULTS.timeout,
        family: Family | None = None,
        size: int = DEFAULTS.size,
        encoding: str = DEFAULTS.encoding,
        limit: int = DEFAULTS.limit,
        tls: ClientTls | None = None,
        expect: str | re.Pattern[str] | None = None,
        warn: float | None = None,
        talk: Talk | None = None,
        measure: bool = False,
    ) -> None:
        probe = Probe(parse(target), ProbeOptions(timeout, family, size, encoding, limit, tls, talk=talk))
        self.target, self.options = probe.target, probe.options
        self.load_options = LoadOptions(duration, concurrency, rate)
        self.metrics = LoadMetrics()
        self.concurrency = self.load_options.max_in_flight(remaining())
        self.requests = Requests(size, Session(most=_MOST) if measure else None)
        self.peer: Address | None = None
        self.asked = ""
        self._check = _greeting_check(Expectations.of(expect, warn), encoding)

    @property
    def histogram(self) -> Histogram:
        """How long the greetings took, from the intended start where there is a rate."""
        return self.metrics.corrected

    async def go(self, each_second: EachSecond | None = None, *, reactor: Any = None) -> Run:
        """Carry out the run. ``metrics`` and ``histogram`` have what was counted, also while it runs or is cancelled.

        :param each_second: called with the number of a second that is over, its counts, and the probes in flight.
        :raises GreetFailed: when the name cannot be looked up, or this process cannot open files.
        """
        reactor = reactor or installed_reactor()
        timeline = Timeline(self.target, self.options)
        try:
            poller = new_poller()
        except OSError as error:
            raise system_failed(timeline, error.errno or errno.EIO) from None
        try:
            transport = await self._transport(poller, timeline, reactor)
        except BaseException:
            poller.close()
            raise
        start = time.monotonic()
        load = self.load_options
        self.metrics = LoadMetrics(None if load.rate is None else Schedule(start, load.rate, load.duration))
        if isinstance(transport, Datagrams):
            self.metrics.strays = transport.strays
        if isinstance(transport, TalkStreams):
            self.metrics.connections = transport.connections
        engine = Engine(
            transport,
            poller,
            self.metrics,
            duration=load.duration,
            concurrency=self.concurrency,
            timeout=self.options.timeout,
            reactor=reactor,
            check=self._check,
            each_second=each_second,
            start=start,
        )
        try:
            await engine.run()
            await self._settle(reactor)
        finally:
            self._conclude()
        return self

    async def _settle(self, reactor: Any) -> None:
        """Ask until one more answer tells which requests had arrived."""
        session = self.requests.session
        if session is not None and session.answered:
            history = PortHistory(session, asks=True, longest=self.metrics.corrected.percentile(99) or 0.0)
            try:
                await Probe(self.target, self.options, history).settle(reactor=reactor)
            finally:
                history.close()

    def _conclude(self) -> None:
        """Say which way requests were lost, or why that is not known; nothing where it was not to be measured."""
        session = self.requests.session
        if session is None:
            self.metrics.unmeasured = self.requests.unmeasured
        else:
            self.metrics.direction = session.direction()
            self.metrics.unmeasured = session.trouble

    async def _transport(self, poller: Poller, timeline: Timeline, reactor: Any) -> Streams | Datagrams:
        target, options = self.target, self.options
        remote = target.path or await resolve(timeline, reactor)
        self.peer = Address(remote, 0) if isinstance(remote, str) else remote.address
        self.asked = timeline.asked()
        if target.datagram:
            keep = max(0, remaining() - self.concurrency) // 2  # half of what this process may open besides
            return Datagrams(remote, self.requests, options.limit, poller, keep)
        plain: type[Streams] = Streams if options.talk is None else TalkStreams
        if target.transport != "tls" or isinstance(remote, str):
            return self._talking(plain(remote, options.limit, poller))
        from greetsvc.client.load.tls import TlsStreams, TlsTalkStreams

        secure = TlsStreams if options.talk is None else TlsTalkStreams
        return self._talking(secure(remote, options.limit, poller, options.tls or ClientTls(), target.host))

    def _talking(self, streams: Streams) -> Streams:
        """The same streams; they know what to say where they talk."""
        talk, options = self.options.talk, self.options
        if talk is not None and isinstance(streams, TalkStreams):
            messages, closed_loop = talk.messages(options.encoding), self.load_options.rate is None
            streams.talk(Speech(talking(self.target, options), messages, closed_loop, options.encoding))
        return streams


def _greeting_check(expectations: Expectations, encoding: str) -> GreetingCheck | None:
    """What decides whether a greeting is as expected; None where nothing is expected."""
    expect, warn = expectations.expect, expectations.warn

    def matches(data: bytes) -> bool:
        return not expectations.mismatch(data.decode(encoding, "backslashreplace"), _MATCHING)

    remembered = lru_cache(1000)(matches)

    def good(data: bytes, seconds: float) -> bool:
        if warn is not None and seconds > warn:
            return False
        return expect is None or (remembered(data) if len(data) <= _REMEMBERED else matches(data))

    return None if expect is None and warn is None else good
