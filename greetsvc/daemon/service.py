# mypy: allow-untyped-calls
# (twisted.application has no types.)
"""The service: binds its listeners before twistd forks, serves after the fork, and drains on stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger

from greetsvc.daemon.listeners import DatagramListening, Premises, Spot, StreamListening, TakenError
from greetsvc.daemon.memory import PER_CONNECTION, SHARE_OF_MEMORY, memory_limit
from greetsvc.daemon.settings import PER_SOURCE, SHARE_OF_FILES, Listener, Settings
from greetsvc.daemon.signals import taking_stop_signals
from greetsvc.daemon.start_checks import GreeterRaised, descriptor_warnings, sample_greeting
from greetsvc.errors import ConfigError
from greetsvc.ledger import Ledger
from greetsvc.net.descriptors import raise_limit
from greetsvc.net.endpoint import parse_endpoint
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.sockets import ipv6_works, kernel_backlog
from greetsvc.printable import escaped
from greetsvc.server.admission import Admission
from greetsvc.server.sessions import Sessions
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.server.visit_log import READABLE, VisitLog

__all__ = ["GreetingService"]

_log = Logger(namespace="greetsvc")

_DEFAULT_ENDPOINTS: tuple[str, ...] = ("tcp:8088", "udp:8088")
_DEFAULT_IPV6_ENDPOINTS = (r"tcp:8088:interface=\:\:", r"udp:8088:interface=\:\:")


class GreetingService(Service):
    """Greets on every listener of ``settings``.

    Call `bind` first, and before a fork. `startService` begins to serve; `stopService` lets open connections end.
    ``observer``, if set, replaces the application's log observer. ``warnings`` are told at the start, and what
    ``obstacles`` returns then, when the process is who it will be. If a listener fails after the start,
    ``on_failure`` is called and the reactor is stopped.
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
        self.obstacles: Callable[[], Iterable[str]] = lambda: ()
        self.warnings: list[str] = []
        self._notes: list[str] = []
        most = settings.max_connections or self._default_connections()
        self.admission = Admission(
            max_connections=most,
            max_per_source=settings.max_per_source or PER_SOURCE,
            exempt_loopback=settings.max_per_source is None,
        )
        self.policy = UdpPolicy(time.monotonic, budget=settings.udp_budget)
        self._sessions = Sessions()
        self._lingerers = Lingerers(reactor, silence=settings.linger, lifetime=settings.deadline, max_sockets=most)
        self._visits = VisitLog(self.ledger, reactor, readable=READABLE if settings.log_visits == "all" else 0)
        self._taken: dict[int, str] = {}
        self._listening: list[StreamListening | DatagramListening] = []

    def bind(self, *, check: bool = False) -> None:
        """Bind every listener, or none. Raises `ConfigError`.

        With ``check``, as beside a running instance, a socket that another program has bound is no error, and no file
        is removed that this service did not make. Such a service cannot be started.
        """
        self.warnings += descriptor_warnings(self.settings.max_connections)
        listeners = self.settings.listeners or self._default_listeners()
        endpoints = [listener.endpoint for listener in listeners]
        premises = Premises(
            self.reactor,
            self.settings,
            self.ledger,
            self.admission,
            self.policy,
            self._sessions,
            self._lingerers,
            ipv4_tcp={one.ipv4_port for one in endpoints if one.ipv4_port and not one.is_datagram},
            ipv4_udp={one.ipv4_port for one in endpoints if one.ipv4_port and one.is_datagram},
            samples=self._sample_greetings(listeners),
            replace=not check,
        )
        try:
            for listener in listeners:
                kind = DatagramListening if listener.endpoint.is_datagram else StreamListening
                one = kind(premises, listener)
                self._listening.append(one)
                try:
                    one.bind(self._listen_failed)
                except TakenError as error:
                    others = (other.listener.endpoint for other in self._listening[:-1])
                    if not check or any(listener.endpoint.overlaps(other) for other in others):
                        raise
                    self._taken[id(one)] = f"{error}, {error.means}"
        except ConfigError:
            self.unbind()
            raise
        for one in self._listening:
            self.warnings += one.warnings()
        self.policy.own_ports = {one.udp_port for one in self._listening if isinstance(one, DatagramListening)}

    def unbind(self) -> None:
        """Close every listener of a service that has not been started."""
        for one in self._listening:
            Deferred.fromCoroutine(one.stop())
        self._listening.clear()

    @property
    def socket_paths(self) -> list[str]:
        """The files of its UNIX sockets."""
        return [one.listener.endpoint.path for one in self._listening if one.listener.endpoint.path is not None]

    def describe(self) -> list[str]:
        """One line for each listener with where it is and its greeter, then the warnings."""
        return [self._described(one) for one in self._listening] + self.warnings

    def _described(self, one: StreamListening | DatagramListening) -> str:
        says = f"says {escaped(one.listener.greeter_option)}"
        if id(one) in self._taken:
            return f"{self._taken[id(one)]}; it {says}"
        spots = ", ".join(map(str, one.spots()))
        return f"{spots or f'{one.listener.endpoint.transport} not known yet: {one.listener.endpoint.text}'} {says}"

    def _sample_greetings(self, listeners: Iterable[Listener]) -> dict[int, bytes]:
        """What each greeter says for a made-up visit. Those that raise become warnings."""
        found: dict[int, bytes] = {}
        for listener in listeners:
            if id(listener.greeter) not in found:
                found[id(listener.greeter)] = b""
                try:
                    found[id(listener.greeter)] = sample_greeting(listener)
                except GreeterRaised as error:
                    self.warnings.append(str(error))
        return found

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
            one.begin(_announce)
        for warning in (*self.warnings, *self.obstacles()):
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
            _log.info(
                "Stopping: {open} {drain:g} s to end", open=_open(count, "has", "have"), drain=drain, count=count
            )
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
        with taking_stop_signals(lambda: self.reactor.callFromThread(empty.cancel)):
            try:
                await empty
            except (defer.TimeoutError, defer.CancelledError):
                _log.info("Ending {open}", open=_open(self.admission.open), count=self.admission.open)
        self.admission.when_empty = None

    def _listen_failed(self, error: ConfigError) -> None:
        """Stop the program: an endpoint that listens only after a while could not."""
        _log.critical("greetsvc: {error}", error=str(error))
        self.on_failure()
        self.reactor.callLater(0, self.reactor.stop)

    def _default_connections(self) -> int:
        by_files = int(raise_limit() * SHARE_OF_FILES)
        memory = memory_limit()
        by_memory = max(1, int(memory * SHARE_OF_MEMORY) // PER_CONNECTION)
        if by_memory < by_files:
            self._notes.append(
                f"At most {by_memory} connections may be open: {memory >> 20} MiB of memory allow no more"
            )
        return min(by_files, by_memory)

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


def _open(count: int, *verbs: str) -> str:
    """The number of open connections, with the verb in the singular or the plural."""
    what = "1 open connection" if count == 1 else f"{count} open connections"
    return " ".join([what, *(verbs[count != 1 :][:1])])


def _announce(spot: Spot) -> None:
    facts: dict[str, str | int] = {"port": spot.port, "address": spot.host} if spot.port else {"path": spot.host}
    apart = f"{spot.transport}, {spot.address}" if spot.port else spot.transport
    _log.info("Server start at {place} ({apart})", place=spot.place, apart=apart, transport=spot.transport, **facts)
