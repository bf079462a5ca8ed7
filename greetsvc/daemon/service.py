# mypy: allow-untyped-calls
# (twisted.application has no types.)
"""The service: binds its listeners before twistd forks, serves after the fork, and drains on stop."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger

from greetsvc.daemon.certificates import Certificates, read_ahead
from greetsvc.daemon.defaults import admin_listener, limits_of, listeners_of
from greetsvc.daemon.generation import Generation
from greetsvc.daemon.inherited import INHERITED, NOTHING, Inherited, stored_name
from greetsvc.daemon.listeners import DatagramListening, Premises, StreamListening, announce, expiries
from greetsvc.daemon.settings.reload import differences, reloadable
from greetsvc.daemon.settings.start_checks import descriptor_warnings, without_effect
from greetsvc.daemon.settings.table import Settings
from greetsvc.daemon.signals import taking_stop_signals
from greetsvc.daemon.systemd.notify import ServiceManager
from greetsvc.errors import ConfigError
from greetsvc.ledger import Ledger
from greetsvc.net.bound import BoundTo
from greetsvc.net.descriptors import require
from greetsvc.net.endpoint import Endpoint
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.sockets import kernel_backlog
from greetsvc.server.admission import Admission
from greetsvc.server.sessions import Sessions
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.server.visit_log import READABLE, VisitLog

if TYPE_CHECKING:
    from greetsvc.admin.figures import Figures
    from greetsvc.admin.watch import Watch
    from greetsvc.daemon.admin import AdminSite

__all__ = ["GreetingService"]

_NO_FILE = "there is no settings file; the files that options name were read again"

_log = Logger(namespace="greetsvc")


class _Visits(Protocol):
    """What tells of visits until it is stopped."""

    def stop(self) -> None: ...


class GreetingService(Service):
    """Greets on every listener of ``settings``.

    Call `bind` first, and before a fork. `startService` begins to serve; `stopService` lets open connections end.
    ``observer``, if set, replaces the application's log observer. At the start, ``warnings`` are logged, and what
    ``obstacles()`` returns; the process then has its final user, group and root folder. If a listener fails after
    the start, ``on_failure`` is called and the reactor is stopped.

    `reload` gets new settings from ``reread``, which may raise `ConfigError`, and calls ``on_reload`` with those that
    it uses; ``has_file`` is whether there is a settings file. ``reloads`` counts the calls of `reload`;
    ``last_reload_ok`` is false after one that changed nothing, of which there were ``failed_reloads``. ``manager``
    hears of starts, reloads and stops; if ``on_serving`` is set, it is called at the start instead.

    ``inherited`` are the sockets that the service begins with. It may be one of so many ``workers``, which share what
    the settings allow.

    ``not_ready`` says why the service is not ready; it is empty while it serves. With an admin site ``watch`` is set,
    and the site shows what `figures` returns. Without ``has_site`` it is another process that serves the site.
    """

    name = "greetsvc"
    has_site = True

    def __init__(
        self, settings: Settings, reactor: Any = None, *, inherited: Inherited = NOTHING, workers: int = 1
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self.inherited = inherited
        self._workers = workers
        self.ledger = Ledger()
        self.admission = Admission()
        self.policy = UdpPolicy(time.monotonic, budget=settings.udp_budget / workers)
        self.reactor = reactor
        self.observer: ILogObserver | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self.obstacles: Callable[[], Iterable[str]] = lambda: ()
        self.warnings: list[str] = []
        self.on_reload: Callable[[Settings], object] = lambda _settings: None
        self.manager = ServiceManager({}, reactor, self.status)
        self.reread: Callable[[], Settings] = lambda: self.settings
        self.has_file = True
        self.reloads = 0
        self.failed_reloads = 0
        self.last_reload_ok = True
        self.upgrade: Any = None
        self.on_serving: Callable[[], object] | None = None
        self._told = self._failed = False
        self._stored = {stored_name(bound) for bound, _ in inherited.held}
        self.not_ready = "starting"
        self.watch: Watch | None = None
        self._site: AdminSite | None = None
        self._generation: Generation | None = None
        self._retired: list[Generation] = []
        self._visits: _Visits | None = None
        self._sessions = Sessions()
        self._one_reload = DeferredLock()
        self._read_ahead: dict[str, Certificates] = {}

    def bind(self, *, check: bool = False) -> None:
        """Bind every listener, or none. Raises `ConfigError`.

        With ``check``, as beside a running instance, a socket that another program has bound is no error, and no file
        is removed that this service did not make. Such a service cannot be started.
        """
        self.warnings += descriptor_warnings(self.settings.max_connections)
        self._generation = self._bound(self.settings, self._listen_failed, check=check)
        self.warnings += self._generation.warnings
        if self.settings.admin is not None:
            from greetsvc.admin.watch import Watch  # only where it is needed, here and below

            self.watch = Watch(self.ledger, self.reactor)
            if self.has_site:
                try:
                    self._bind_site(self._generation, self.watch, check=check)
                except ConfigError:
                    self.unbind()
                    raise
        for _, sock in self.inherited.held:
            sock.close()  # the listeners have duplicates

    def prepare(self) -> None:
        """Take what serving needs, or see that it is there, so that a lack of it is told before the start.

        :raises MemoryError: if there is no memory for the tables of the UDP rule.
        :raises OSError: if there are too few descriptors.
        """
        if any(isinstance(one, DatagramListening) for one in self._listening):
            self.policy.prepare()
        listening = (*self._listening, *self._site_listening)
        # Two for the reactor's signals, one that each listener keeps in reserve, and one for a visitor.
        require(2 + sum(isinstance(one, StreamListening) for one in listening) + 1)

    def _clear(self, place: BoundTo, but: Collection[socket.socket]) -> bool:
        """Close what a service manager kept where another socket is to be bound; whether there was anything."""
        stale = [
            (bound, sock)
            for bound, sock in self.inherited.held
            if sock.fileno() >= 0 and sock not in but and bound.of(sock).overlaps(place)
        ]
        for bound, sock in stale:
            sock.close()
            self.manager.forget(stored_name(bound))
        return bool(stale)

    def _bind_site(self, generation: Generation, watch: Watch, *, check: bool) -> None:
        from greetsvc.admin.site import Shown
        from greetsvc.daemon.admin import AdminSite

        others = [one.listener for one in generation.listening]
        shown = Shown(self.figures, lambda: watch.visits, self._about, self.readiness)
        self._site = AdminSite(generation.premises, admin_listener(self.settings, self.inherited, others)[0], shown)
        self._site.bind(self._listen_failed, others, check=check)

    def readiness(self) -> str:
        """Why the service is not ready, in a word or two; empty while it is."""
        return self.not_ready

    def figures(self) -> Figures:
        """The figures of the service now."""
        from greetsvc.admin.figures import Histogram, take

        generations = [one for one in (self._generation, *self._retired) if one is not None]
        transports = {one.listener.endpoint.transport: 0 for one in self._listening}
        return take(
            self.ledger,
            transports,
            open=self.admission.open,
            open_allowed=self.admission.max_connections or 0,
            lingering=sum(one.lingering for one in generations),
            loop_delay=Histogram.of(self.watch.loop_delay) if self.watch is not None else Histogram(),
            certificates=expiries((*self._listening, *self._site_listening)),
            reloads={"ok": self.reloads - self.failed_reloads, "failed": self.failed_reloads},
            reload_ok=self.last_reload_ok,
        )

    @property
    def _site_listening(self) -> Sequence[StreamListening]:
        return (self._site.listening,) if self._site is not None else ()

    def _about(self) -> Mapping[str, Any]:
        """What the admin site says of this service besides its figures."""
        from greetsvc.daemon.admin import settings_shown

        return {"listeners": self.describe(), "settings": settings_shown(self.settings)}

    def _bound(self, settings: Settings, late: Callable[[ConfigError], object], *, check: bool = False) -> Generation:
        """A new generation, with its limits in force."""
        limits, notes = limits_of(settings, self._workers)
        listeners, more_notes = listeners_of(settings, self.inherited)
        site = admin_listener(settings, self.inherited, listeners)
        lingerers = Lingerers(
            self.reactor, silence=settings.linger, lifetime=settings.deadline, max_sockets=limits.max_connections
        )
        premises = Premises(
            self.reactor,
            settings,
            self.ledger,
            self.admission,
            self.policy,
            self._sessions,
            lingerers,
            replace=not check,
            inherited=self.inherited,
            clear=self._clear if self.inherited.stored else None,
            certificates=self._read_ahead,
        )
        generation = Generation(premises, listeners, self._generation)
        generation.bind(late, check=check)
        generation.notes = notes + more_notes
        generation.warnings += self.inherited.unused((*listeners, *site))
        generation.warnings += without_effect(settings, (*listeners, *site))
        self.admission.limit(**limits._asdict())
        self.policy.own_ports = generation.udp_ports
        return generation

    def begin_reload(self) -> Deferred[None]:
        """`reload`, when a thread has read the certificates that are new to it: many would hold up all visitors.

        One reload is done after the other.
        """
        done = self._one_reload.run(self._read_and_reload)
        return done.addErrback(lambda failure: _log.failure("The settings could not be reloaded", failure))

    def _read_and_reload(self) -> Deferred[None]:
        def reload(found: dict[str, Certificates]) -> None:
            self._read_ahead = found
            self.reload()
            self._read_ahead = {}

        try:
            client_ca, wanted = self._new_certificates()
        except ConfigError:  # `reload` tells
            client_ca, wanted = None, []
        if not wanted:
            return maybeDeferred(reload, {})
        pool = self.reactor.getThreadPool()
        reading = deferToThreadPool(self.reactor, pool, read_ahead, self.reactor, wanted, client_ca)
        return reading.addCallback(reload)

    def _new_certificates(self) -> tuple[str | None, list[Endpoint]]:
        """The TLS endpoints whose certificates a reload has to read, and the ``client_ca`` that goes with them."""
        settings, _ = reloadable(self.settings, self.reread())
        client_ca = settings.client_ca
        old = [one for one in self._listening if isinstance(one, StreamListening)]
        new = [one.endpoint for one in listeners_of(settings, self.inherited)[0] if one.endpoint.transport == "tls"]
        return client_ca, [each for each in new if not any(one.shows(each, client_ca) for one in old)]

    def reload(self) -> None:
        """Use the settings that ``reread`` returns from now on; or log in one line why not, and change nothing.

        Open connections go on as they began.
        """
        before = self._generation
        if before is None or not self.running:
            return
        self.manager.reloading()
        try:
            settings, fixed = reloadable(self.settings, self.reread())
            generation = self._bound(settings, _log_late)
        except ConfigError as error:
            self.last_reload_ok = False
            self.failed_reloads += 1
            _log.error("The settings were not reloaded, and the old ones stay: {error}", error=str(error))
        else:
            self.last_reload_ok = True
            self.on_reload(settings)
            told = differences(self.settings, settings) if self.has_file else _NO_FILE
            _log.info("The settings were reloaded{told}", told=told and f" ({told})")
            self._replace(before, generation, settings)
            _note(*(note for note in generation.notes if note not in before.notes))
            _warn(*generation.warnings, *fixed)
        self.reloads += 1
        self.tell_manager()

    def _replace(self, before: Generation, generation: Generation, settings: Settings) -> None:
        old, self.settings = self.settings, settings
        if settings.udp_budget != old.udp_budget:
            self.policy.set_budget(settings.udp_budget / self._workers)
        if settings.log_visits != old.log_visits:
            if self._visits is not None:
                self._visits.stop()
            self._visits = self._start_visit_log()
        self._generation = generation
        self._serve(generation)
        self._retired = [one for one in (*self._retired, before) if not one.ends_before(generation)]
        # What the last generations left is in cycles, and was alive when this one was built: the collector would look
        # at it again only much later (200 TLS connections a second: 0.2 MB for each reload until then).
        gc.collect()

    def unbind(self) -> None:
        """Close every listener of a service that has not been started."""
        if self._generation is not None:
            self._generation.unbind()
        if self._site is not None:
            Deferred.fromCoroutine(self._site.stop())

    @property
    def _listening(self) -> Sequence[StreamListening | DatagramListening]:
        return self._generation.listening if self._generation is not None else ()

    @property
    def socket_paths(self) -> list[str]:
        """The files of its UNIX sockets."""
        paths = [one.listener.endpoint.path for one in self._listening]
        site = self._site.path if self._site is not None else None
        return [path for path in (*paths, site) if path is not None]

    def estate(self) -> Inherited:
        """What a successor gets: the sockets that a service manager passed, and those that this service has bound."""
        bound = [*(self._generation.bound if self._generation is not None else ())]
        if self._site is not None:
            bound += self._site.bound
        return Inherited(self.inherited.passed, tuple(each for each in bound if each[0].kind != INHERITED))

    def hand_over(self, paths: Collection[str]) -> None:
        """Leave the admin site, and the files of UNIX sockets at these paths, to another process."""
        for one in self._listening:
            if one.listener.endpoint.path in paths:
                one.leave_path()
        if self._site is not None:
            self._site.leave()

    # In an upgrade `processes.workers.Workers` replaces workers one after another; a single process has none.

    def start_one_by_one(self, on_worker: Callable[[int], object]) -> None:
        """Start a worker only when the one before serves; ``on_worker`` is called with the number of each."""

    def retire(self, number: int) -> None:
        """The successor has a worker of this number, so that ours may stop."""

    def refill(self) -> None:
        """There is no successor after all: undo `retire`."""

    def describe(self) -> list[str]:
        """One line for each listener with where it is and its greeter, then the warnings."""
        site = [self._site.describe()] if self._site is not None else []
        return [*(self._generation.describe() if self._generation is not None else ()), *site, *self.warnings]

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer if there is one."""
        if self.observer is not None:
            parent.setComponent(ILogObserver, self.observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Serve. The log names each listener with its port, which matters for port 0."""
        super().startService()
        backlog, cut = kernel_backlog()
        bound = self._generation.bound if self._generation is not None else ()
        if cut and any(where.kind != INHERITED for where, _ in bound):  # the manager chose that of the others
            _note(f"The backlog of listeners is {backlog}: net.core.somaxconn allows no more")
        self._visits = self._start_visit_log()
        if self.watch is not None:
            self.watch.start()
        if self._site is not None and self.on_serving is None:
            self._site.begin()
        if self._generation is not None:
            _note(*self._generation.notes)
            self._serve(self._generation)
        _warn(*self.warnings, *self.obstacles())

    def _serve(self, generation: Generation) -> None:
        """Serve on these listeners from now on."""
        generation.begin(announce)
        self.reactor.callWhenRunning(self._serves)

    def _serves(self) -> None:
        """Tell, once, that the service serves, unless a listener failed at the start."""
        if not (self._told or self._failed):
            self._told = True
            self.not_ready = "" if self.running else self.not_ready
            if self._site is not None:  # that of a successor, which is not to answer before its predecessor leaves
                self._site.begin()
            (self.on_serving or self.tell_manager)()

    def tell_manager(self) -> None:
        """The service serves, after its start or a reload; its sockets are to survive a restart.

        UNIX sockets are not, as systemd removes the folder that their files are in.
        """
        self.manager.ready()
        if self.manager.stores:
            held = [(stored_name(bound), sock) for bound, sock in self.estate().held if sock.family != socket.AF_UNIX]
            for name in self._stored - {name for name, _ in held}:
                self.manager.forget(name)
            for name, sock in held:
                self.manager.store(name, sock)
            self._stored = {name for name, _ in held}

    def status(self) -> str:
        """What the service has done, in one line."""
        return self._status(self.admission.open)

    def _status(self, held: int) -> str:
        failed = "" if self.last_reload_ok else "; the last reload failed, see the log"
        return f"{self.ledger.visits} greeted, {self.ledger.refused.total()} refused, {held} connections open{failed}"

    def _start_visit_log(self) -> _Visits | None:
        if self.settings.log_visits == "off":
            return None
        readable = READABLE if self.settings.log_visits == "all" else 0
        visits = VisitLog(self.ledger, self.reactor, readable=readable)
        visits.start()
        return visits

    def stopService(self) -> Deferred[None]:
        """Stop listening, wait ``drain`` seconds for open connections to end, then abort them.

        A SIGTERM or SIGINT meanwhile aborts them at once.
        """
        super().stopService()
        self.manager.stopping(self.settings.drain)
        self.not_ready = "draining"
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._generation is not None:
            await self._generation.stop()
        for generation in filter(None, (*self._retired, self._generation)):
            generation.finish()
        if self.admission.open:
            verb = "has" if self.admission.open == 1 else "have"
            self._tell_open("Stopping: {open} {verb} {drain:g} s to end", verb=verb, drain=self.settings.drain)
            await self._drain()
        for generation in filter(None, (*self._retired, self._generation)):
            generation.abort()
        await self._end()

    async def _end(self) -> None:
        """End what tells of visits, as there will be no more."""
        if self._visits is not None:
            self._visits.stop()
        if self.watch is not None:
            self.watch.stop()
        if self._site is not None:
            await self._site.stop()
        self.manager.close()
        self._generation = None

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
                self._tell_open("Ending {open}")
        self.admission.when_empty = None

    def _tell_open(self, told: str, whose: str = "", **facts: object) -> None:
        """Log what becomes of the connections that are open when the service stops."""
        count = self.admission.open
        connections = f"{count} open connection{'s' * (count != 1)}{whose}"
        _log.info(told, open=connections, count=count, **facts)

    def _listen_failed(self, error: ConfigError) -> None:
        """Stop the program: a listener could not, of an endpoint that listens only after a while or of a plugin."""
        self._failed = True
        _log.critical("greetsvc: {error}", error=str(error))
        self.on_failure()
        self.reactor.callLater(0, self.reactor.stop)


def _note(*lines: str) -> None:
    for line in lines:
        _log.info("{note}", note=line)


def _warn(*lines: str) -> None:
    for line in lines:
        _log.warn("{warning}", warning=line)


def _log_late(error: ConfigError) -> None:
    """An endpoint of a reload that listens only after a while could not; the others serve."""
    _log.error("{error}", error=str(error))
