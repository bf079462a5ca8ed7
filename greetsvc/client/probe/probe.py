"""Probe a target once: resolve, connect, TLS handshake, read the greeting, give the result."""

from __future__ import annotations

import errno
import os
from typing import Any

from attrs import evolve, field, frozen

from greetsvc.client.basics import Family
from greetsvc.client.evidence.direction import Direction, Session
from greetsvc.client.options import DEFAULTS, ProbeOptions, Talk
from greetsvc.client.probe.datagram.attempts import probe_udp, probe_unixgram
from greetsvc.client.probe.datagram.history import PortHistory
from greetsvc.client.probe.reactor import installed_reactor
from greetsvc.client.probe.resolve import resolve
from greetsvc.client.probe.steps import Trace
from greetsvc.client.probe.stream.connection import probe_stream
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.client.tls import ClientTls
from greetsvc.wire import request

__all__ = ["Probe", "greet", "greet_ex"]

_CLOSING = 8
"""Requests at the end of a measured series; with half of them lost, one in 256 series ends without an answer."""

_CLOSING_TIME = 1.0
"""Seconds that these may take together, or one time-out if that is longer."""

_LEAST_PATIENCE = 0.05
"""The shortest wait for the answer to one of these, in seconds."""


@frozen
class Probe:
    """A target and the options to probe it with. They are checked here, once; `run` does not check again.

    ``history`` is what the datagram probes of a series remember; `close` ends it.

    :raises ConfigError: when the target cannot be probed with these options.
    """

    target: Target
    options: ProbeOptions = DEFAULTS
    history: PortHistory | None = field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        self.options.check_target(self.target)
        if self.options.talk is not None:
            from greetsvc.client.probe.stream.talk import talking

            talking(self.target, self.options)  # loads what it needs now, so that no probe is timed with that

    def from_port(self, port: int | None, *, measure: bool = False) -> Probe:
        """The same for a series of probes from a source port; None leaves the port to the system.

        With ``measure`` the series asks for measured answers, once it was greeted, and `direction` gives the figures.
        """
        history = PortHistory(Session() if measure else None)
        return evolve(self, options=evolve(self.options, source_port=port), history=history)

    @property
    def direction(self) -> Direction | None:
        """The figures of a measured series; None where they are not known, and `unmeasured` says why."""
        session = self.history and self.history.session
        return session.direction() if session else None

    @property
    def unmeasured(self) -> str:
        """Why there are no figures of a series that was to be measured, in words; empty where there are."""
        history = self.history
        if history is None or self.direction is not None:
            return ""
        if history.session is None:
            return history.unmeasured
        return history.session.trouble if history.asks else "nothing answered"

    async def settle(self, *, reactor: Any = None) -> None:
        """End a measured series: ask until one more answer tells what had arrived by then, a few times.

        Silence may be a loss; any other failure says that no answer will come.
        """
        history = self.history
        if history is None or not history.measures:
            return
        patience = min(self.options.timeout, max(_LEAST_PATIENCE, 2 * history.longest))
        closing = evolve(self, options=evolve(self.options, timeout=patience))
        for _ in range(min(_CLOSING, max(1, int(max(self.options.timeout, _CLOSING_TIME) / patience)))):
            try:
                await closing.run(reactor=reactor)
            except GreetFailed as failed:
                if failed.errno == errno.ETIMEDOUT:
                    continue
            return

    def close(self) -> None:
        """Close the sockets that a series of datagram probes keeps."""
        if self.history is not None:
            self.history.close()

    async def run(self, *, trace: Trace | None = None, reactor: Any = None) -> Greeting:
        """Probe once, on the installed reactor unless another is given.

        :raises GreetFailed: when no greeting came.
        """
        reactor = reactor or installed_reactor()
        timeline = Timeline(self.target, self.options, trace=trace)
        try:
            return await self._greeting(timeline, reactor)
        except GreetFailed:
            raise
        except OSError as error:  # this host failed where none of the steps expects it
            raise system_failed(timeline, error.errno or errno.EIO) from None

    async def _greeting(self, timeline: Timeline, reactor: Any) -> Greeting:
        target, options = self.target, self.options
        if target.transport == "unixgram":
            data = await probe_unixgram(timeline, target.path, self._request, reactor, history=self.history)
            return timeline.greeted(data)
        run = probe_stream
        if options.talk is not None:
            from greetsvc.client.probe.stream.talk import probe_talk

            run = probe_talk
        if target.transport == "unix":
            return timeline.greeted(*await run(timeline, target.path, None, reactor))
        tls = (options.tls or ClientTls()) if target.transport == "tls" else None
        remote = await resolve(timeline, reactor)
        if target.transport == "udp":
            return timeline.greeted(await probe_udp(timeline, remote, self._request, reactor, history=self.history))
        return timeline.greeted(*await run(timeline, remote, tls, reactor))

    def _request(self, number: int, when: int) -> bytes:
        """The request with this number of a probe, which leaves now; with the fields of a measured series."""
        nonce, history = os.urandom(8).hex(), self.history
        if history is None or history.session is None or not history.asks:
            return request(nonce, self.options.size)
        return request(nonce, self.options.size, history.session.sent(nonce, when, number, history.wanted_answer))


async def greet(
    target: str | Target = DEFAULT_HOST,
    *,
    timeout: float = DEFAULTS.timeout,
    family: Family | None = None,
    size: int = DEFAULTS.size,
    encoding: str = DEFAULTS.encoding,
    limit: int = DEFAULTS.limit,
    tls: ClientTls | None = None,
    talk: Talk | None = None,
    trace: Trace | None = None,
    reactor: Any = None,
) -> Greeting:
    """Probe ``target`` (such as ``udp:127.0.0.1:8088``; see docs/client.md) and return its greeting.

    :param timeout: seconds for the whole probe, from the look-up of the name to the end of the greeting.
    :param family: 4 or 6 to use only that family of addresses. A probe goes to one address, always.
    :param size: bytes of a datagram request.
    :param encoding: how the bytes become ``text``.
    :param limit: the longest greeting, in bytes.
    :param tls: the authorities to trust and our own certificate, for a ``tls:`` target.
    :param talk: what to say after the greeting, to a server that answers.
    :param trace: called with a line for each step as it happens.
    :raises GreetFailed: an `OSError`, when no greeting came.
    :raises ValueError: when the target or an option is wrong; nothing was sent.
    """
    options = ProbeOptions(timeout, family, size, encoding, limit, tls, talk=talk)
    return await Probe(parse(target), options).run(trace=trace, reactor=reactor)


async def greet_ex(target: str | Target = DEFAULT_HOST, **options: Any) -> int:
    """The same as `greet`, in the manner of ``socket.connect_ex``: 0 when greeted, or the errno.

    :raises ValueError: as `greet` does.
    """
    try:
        await greet(target, **options)
    except GreetFailed as failed:
        return int(failed.errno or 0)
    return 0
