# mypy: allow-untyped-calls
# (twisted.application has no types.)
"""The service: binds its listeners before twistd forks, serves after the fork, and drains on stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger

from greetsvc.daemon.listeners import DatagramListening, Premises, StreamListening
from greetsvc.daemon.settings import PER_SOURCE, SHARE_OF_FILES, Listener, Settings
from greetsvc.errors import ConfigError
from greetsvc.ledger import Ledger
from greetsvc.net.descriptors import raise_limit
from greetsvc.net.endpoint import parse_endpoint
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.sockets import ipv6_works, kernel_backlog
from greetsvc.printable import escaped
from greetsvc.server.admission import Admission
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.server.visit_log import READABLE, VisitLog

__all__ = ["GreetingService"]

_log = Logger(namespace="greetsvc")

_DEFAULT_ENDPOINTS: tuple[str, ...] = ("tcp:8088", "udp:8088")
_DEFAULT_IPV6_ENDPOINTS = (r"tcp:8088:interface=\:\:", r"udp:8088:interface=\:\:")


class GreetingService(Service):
    """Greets on every listener of ``settings``.

    Call `bind` first, and before a fork. `startService` begins to serve; `stopService` lets open connections end.
    ``observer``, if set, replaces the application's log observer. If a listener fails after the start, ``on_failure``
    is called and the reactor is stopped.
    """

    name = "greetsvc"

    def __init__(self, settings: Settings, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self.ledger = Ledger()
        self.reactor = reactor
        self.observer: ILogObserver | None = None
        self.on_failure: Callable[[], object] = lambda: None
        most = settings.max_connections or int(raise_limit() * SHARE_OF_FILES)
        self.admission = Admission(
            max_connections=most,
            max_per_source=settings.max_per_source or PER_SOURCE,
            exempt_loopback=settings.max_per_source is None,
        )
        self.policy = UdpPolicy(time.monotonic, budget=settings.udp_budget)
        self._lingerers = Lingerers(reactor, silence=settings.linger, lifetime=settings.deadline, max_sockets=most)
        self._visits = VisitLog(self.ledger, reactor, readable=READABLE if settings.log_visits == "all" else 0)
        self._notes: list[str] = []
        self._listening: list[StreamListening | DatagramListening] = []

    def bind(self) -> None:
        """Bind every listener, or none. Raises `ConfigError`."""
        listeners = self.settings.listeners or self._default_listeners()
        endpoints = [listener.endpoint for listener in listeners]
        premises = Premises(
            self.reactor,
            self.settings,
            self.ledger,
            self.admission,
            self.policy,
            self._lingerers,
            ipv4_tcp={one.ipv4_port for one in endpoints if one.ipv4_port and not one.is_datagram},
            ipv4_udp={one.ipv4_port for one in endpoints if one.ipv4_port and one.is_datagram},
        )
        try:
            for listener in listeners:
                kind = DatagramListening if listener.endpoint.is_datagram else StreamListening
                one = kind(premises, listener)
                self._listening.append(one)
                one.bind(self._listen_failed)
        except ConfigError:
            self.unbind()
            raise
        self.policy.own_ports = {one.udp_port for one in self._listening if isinstance(one, DatagramListening)}

    def unbind(self) -> None:
        """Close every listener of a service that has not been started."""
        for one in self._listening:
            Deferred.fromCoroutine(one.stop())
        self._listening.clear()

    def describe(self) -> list[str]:
        """One line for each listener with its place and its greeter, then the warnings."""
        lines = []
        for one in self._listening:
            places = ", ".join(one.places()) or f"not known yet: {one.listener.endpoint.text}"
            lines.append(f"{one.listener.endpoint.transport} {places} says {escaped(one.listener.greeter_option)}")
        return lines + self._warnings()

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer if there is one."""
        if self.observer is not None:
            parent.setComponent(ILogObserver, self.observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Serve. The log names each listener with its port, which matters for port 0."""
        super().startService()
        backlog, cut = kernel_backlog()
        if cut:
            self._notes.append(f"The backlog of listeners is {backlog}: net.core.somaxconn allows no more")
        if self.settings.log_visits != "off":
            self._visits.start()
        for note in self._notes:
            _log.info("{note}", note=note)
        for one in self._listening:
            one.begin(lambda place: _log.info("Server start at {place}", place=place))
        for warning in self._warnings():
            _log.warn("{warning}", warning=warning)

    def stopService(self) -> Deferred[None]:
        """Stop listening, wait ``drain`` seconds for open connections to end, then abort them.

        A SIGTERM or SIGINT meanwhile aborts them at once.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for one in self._listening:
            await one.stop()
        if self.admission.open:
            count, drain = self.admission.open, self.settings.drain
            _log.info("Stopping: {count} open connections have {drain} s to end", count=count, drain=drain)
            await self._drain()
        for one in self._listening:
            if isinstance(one, StreamListening):
                one.abort()
        self._lingerers.stop()
        self._visits.stop()
        self._listening.clear()

    async def _drain(self) -> None:
        """Return when no connection is open, after ``drain`` seconds, or at a signal."""
        empty: Deferred[None] = Deferred()

        def done() -> None:
            if not empty.called:
                empty.callback(None)

        self.admission.when_empty = done
        empty.addTimeout(self.settings.drain, self.reactor)
        with _signals(lambda: self.reactor.callFromThread(empty.cancel)):
            try:
                await empty
            except (defer.TimeoutError, defer.CancelledError):
                _log.info("Ending {count} open connections", count=self.admission.open)
        self.admission.when_empty = None

    def _warnings(self) -> list[str]:
        return [one.warning for one in self._listening if isinstance(one, DatagramListening) and one.warning]

    def _listen_failed(self, error: ConfigError) -> None:
        """Stop the program: an endpoint that listens only after a while could not."""
        _log.critical("greetsvc: {error}", error=str(error))
        self.on_failure()
        self.reactor.callLater(0, self.reactor.stop)

    def _default_listeners(self) -> tuple[Listener, ...]:
        texts = _DEFAULT_ENDPOINTS
        if ipv6_works():
            texts += _DEFAULT_IPV6_ENDPOINTS
        else:
            self._notes.append("IPv6 does not work on this machine: only IPv4 is served")
        return tuple(
            Listener(parse_endpoint(text), self.settings.greeter, self.settings.greeter_option, f"the default {text}")
            for text in texts
        )


@contextmanager
def _signals(call: Callable[[], object]) -> Iterator[None]:
    """A context in which SIGTERM and SIGINT call ``call``; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = {number: signal.signal(number, lambda *_: call()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
