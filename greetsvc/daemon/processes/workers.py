"""Several processes that share the listening sockets: the parent, which holds the sockets, and its workers.

All workers accept from the same stream sockets: what waits in a queue does not depend on any one of them. (Sockets
with SO_REUSEPORT have a queue each, which waits or is lost with its worker.) For UDP the parent binds one for each
worker, over which the kernel spreads the flows: a flow stays with its worker, and a new worker goes on with the same
socket. Other datagram sockets cannot be multiplied: the first worker serves them.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from greetsvc.admin.events import PERIOD
from greetsvc.daemon.generation import Generation
from greetsvc.daemon.inherited import NOTHING, Inherited
from greetsvc.daemon.listeners import announce, expiries
from greetsvc.daemon.processes import relay
from greetsvc.daemon.processes.backoff import Backoff
from greetsvc.daemon.processes.channel import Channel, Message
from greetsvc.daemon.processes.kin import WORKER, Command, ErrorLines, Origin, ending, message_of, sockets_in
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.table import Settings
from greetsvc.daemon.signals import taking_stop_signals
from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.bound import BoundSockets, BoundTo
from greetsvc.net.descriptors import require
from greetsvc.net.sockets import udp_sibling

if TYPE_CHECKING:
    from greetsvc.admin.figures import Figures

__all__ = ["Worker", "Workers"]

_log = Logger(namespace="greetsvc")

_TRIES = 3
"""How often a worker may fail to start before the service has served; then the service ends."""

_GRACE = 5.0
"""Seconds beyond ``drain`` after which a worker that shall stop is killed."""

_LOOK = 1.0
"""Seconds between two looks of the parent at whether a worker said something."""

_SILENT = 10
"""After this many looks without a message, a worker that serves hangs, and is killed.

The parent counts its own turns, not seconds: after a pause of its own it first hears what the workers said meanwhile.
"""

_File = Mapping[str, Any] | None
"""The content of the settings file; None where there is none."""


class Workers(GreetingService):
    """The parent. It greets nobody itself; its ledger has the sums of all workers.

    ``file`` returns the content of the settings file as it was read last: a worker uses what its parent has checked.
    """

    def __init__(
        self,
        settings: Settings,
        command: Command,
        file: Callable[[], _File],
        reactor: Any = None,
        *,
        inherited: Inherited = NOTHING,
    ) -> None:
        super().__init__(settings, reactor, inherited=inherited)
        self.command = command
        self.has_served = False
        self._gave_up = False
        self._on_worker: Callable[[int], object] | None = None
        self._last_read = file
        self._file: _File = None
        self._siblings = BoundSockets()
        self._slots = [_Slot(self, number) for number in range(settings.workers)]

    def _bound(self, settings: Settings, late: Callable[[ConfigError], object], *, check: bool = False) -> Generation:
        generation = super()._bound(settings, late, check=check)
        try:
            for listener in generation.foreign:
                raise ConfigError(f"{listener.where}: workers cannot share the sockets that a plugin opens")
            if not check:
                self._bind_siblings(generation)
        except ConfigError:
            generation.unbind()
            raise
        self._file = self._last_read()
        generation.warnings += self._too_few(settings)
        return generation

    def _too_few(self, settings: Settings) -> Iterator[str]:
        """A warning for each limit that cannot be shared out."""
        workers = len(self._slots)
        limits = {"max-connections": settings.max_connections, "max-per-source": settings.max_per_source}
        for name, limit in limits.items():
            if limit is not None and limit < workers:
                yield f"{name} is {limit}, but each of the {workers} workers allows 1, so {workers} in all"

    def _bind_siblings(self, generation: Generation) -> None:
        siblings = BoundSockets([*self._siblings.bound, *self.inherited.held])
        try:
            for bound, sock in generation.bound:
                for number in range(1, len(self._slots) if bound.kind == "udp" else 1):
                    siblings.get(_sibling(bound, sock, number), partial(udp_sibling, sock))
        except OSError as error:
            _close(siblings)
            raise ConfigError(f"workers: {len(self._slots)} cannot share a UDP port: {reason_of(error)}") from error
        _close(self._siblings)
        self._siblings = siblings

    def unbind(self) -> None:
        """See `GreetingService`."""
        super().unbind()
        _close(self._siblings)

    def prepare(self) -> None:
        """As inherited, for a parent: each worker has a channel and two pipes, and as many while it is started."""
        require(3 * self.settings.workers + 6)

    def estate(self) -> Inherited:
        """See `GreetingService`."""
        estate = super().estate()
        return estate._replace(held=(*estate.held, *self._siblings.bound))

    def message_for(self, number: int, leave_out: Counter[BoundTo] | None = None) -> tuple[Message, list[int]]:
        """What a worker is told at its start; or at a reload, with the sockets that it has already left out."""
        held = [(bound, sock) for bound, sock in self._held_by(number) if not _took(leave_out, bound)]
        ports = sorted(self.policy.own_ports)
        told = {"number": number, "of": len(self._slots), "file": self._file, "udp_ports": ports}
        return message_of(Inherited(self.inherited.passed if leave_out is None else (), tuple(held)), told)

    def _held_by(self, number: int) -> Iterator[tuple[BoundTo, socket.socket]]:
        """The sockets of one worker."""
        siblings = dict(self._siblings.bound)
        for bound, sock in self._generation.bound if self._generation is not None else ():
            if _is_for(number, bound, sock):
                is_sibling = number > 0 and bound.kind == "udp"
                yield bound, siblings[_sibling(bound, sock, number)] if is_sibling else sock

    def _serve(self, generation: Generation) -> None:
        if self.has_served:
            generation.begin(announce, serve=False)
        elif generation is self._generation and not any(slot.has_begun for slot in self._slots):
            self.reactor.callWhenRunning(self._start)

    def _replace(self, before: Generation, generation: Generation, settings: Settings) -> None:
        super()._replace(before, generation, settings)
        for slot in self._slots:
            slot.reload(Counter(bound for bound, sock in before.bound if _is_for(slot.number, bound, sock)))

    def _start(self) -> None:
        for slot in self._slots[: 1 if self._on_worker is not None else None]:
            slot.start()

    def worker_serves(self, slot: _Slot) -> None:
        """A worker has started."""
        if self._gave_up:
            return
        if not self.has_served and self._generation is not None:
            self.has_served = True
            self._generation.begin(announce, serve=False)
        waiting = [one for one in self._slots if not one.serves]
        if self._on_worker is not None:
            self._on_worker(slot.number)
            if waiting and not waiting[0].has_begun:
                waiting[0].start()
        if self._told:
            _log.info("Worker {number} serves: process {pid}", number=slot.number + 1, pid=slot.pid)
        elif not waiting:
            self._serves()

    def _serves(self) -> None:
        if not self._told:
            processes = ", ".join(str(slot.pid) for slot in self._slots)
            _log.info("{count} workers serve: processes {processes}", count=len(self._slots), processes=processes)
        super()._serves()

    def cannot_start(self, slot: _Slot, why: str) -> None:
        """End the program: a worker failed again and again, and none has ever served."""
        if self.running and not self._gave_up:
            self._gave_up = True
            _log.critical("greetsvc: workers cannot start: {why}", why=why)
            self.on_failure()
            self.reactor.callLater(0, self.reactor.stop)

    def start_one_by_one(self, on_worker: Callable[[int], object]) -> None:
        """See `GreetingService`."""
        self._on_worker = on_worker

    def retire(self, number: int) -> None:
        """See `GreetingService`."""
        for slot in self._slots[number : number + 1]:
            slot.stop()

    def refill(self) -> None:
        """See `GreetingService`."""
        for slot in self._slots:
            slot.refill()

    def figures(self) -> Figures:
        """The sum over the workers, and over those that ended; of this process only what it uses itself."""
        from greetsvc.admin.figures import Histogram

        own = super().figures()
        own = evolve(
            own,
            refused={},
            unanswered={},
            tls_failed={},
            certificates=expiries(self._site_listening),
            greeted=dict.fromkeys(own.greeted, 0),
            greeting_seconds=Histogram(),
            open_allowed=0,
            workers=0,
            workers_restarted=sum(slot.restarts for slot in self._slots),
        )
        return sum((figures for slot in self._slots for figures in slot.figures()), own)

    def readiness(self) -> str:
        """See `GreetingService`."""
        return self.not_ready or ("" if any(slot.serves for slot in self._slots) else "no worker serves")

    def status(self) -> str:
        """See `GreetingService`."""
        return self._status(sum(slot.open for slot in self._slots))

    async def _stop(self) -> None:
        # What comes now is refused at once, as by one process, and does not wait for workers that accept no more.
        if self._generation is not None:
            await self._generation.stop()
        _close(self._siblings)
        stopped = gatherResults([slot.stop() for slot in self._slots])
        limit = self.reactor.callLater(self.settings.drain + _GRACE, self._signal, "KILL")
        with taking_stop_signals(lambda: self.reactor.callFromThread(self._signal, "TERM")):
            await stopped
        if limit.active():
            limit.cancel()
        await self._end()

    def _signal(self, name: str) -> None:
        for slot in self._slots:
            slot.signal(name)


class _Slot(ProcessProtocol):
    """The place of one worker: starts one, and another one when that ends."""

    def __init__(self, parent: Workers, number: int) -> None:
        self.number = number
        self.serves = False
        self.open = 0
        self.restarts = 0
        self._figures: Figures | None = None  # of the worker, as it told last
        self._before: Figures | None = None  # what remains of those before it
        self._parent = parent
        self._backoff = Backoff()
        self._errors = ErrorLines()
        self._channel = Channel(lambda _message, _descriptors: None)
        self._process: IProcessTransport | None = None
        self._timer: IDelayedCall | None = None
        self._watch: IDelayedCall | None = None
        self._silent = 0
        self._since = 0.0
        self._stopped: Deferred[None] | None = None

    @property
    def pid(self) -> int:
        """The worker's process; 0 where there is none."""
        return self._process.pid or 0 if self._process is not None else 0

    @property
    def has_begun(self) -> bool:
        """Whether a worker is there, or is awaited."""
        return self._process is not None or self._timer is not None

    def start(self) -> None:
        """Start a worker."""
        self._timer = None
        parent = self._parent
        self._errors, self._since = ErrorLines(), parent.reactor.seconds()
        self._channel = Channel(self._told, self._gone)
        try:
            self._process = parent.command.start(parent.reactor, WORKER, self, self._channel)
        except OSError as error:
            self._again("could not be started", reason_of(error))
            return
        self._channel.say(*parent.message_for(self.number))

    def reload(self, had: Counter[BoundTo]) -> None:
        """Have the worker use the parent's settings, with the sockets that it does not have yet."""
        if self._process is not None:
            message, descriptors = self._parent.message_for(self.number, had)
            self._channel.say({**message, "reload": True}, descriptors)

    def stop(self) -> Deferred[None]:
        """Have the worker stop, once it has served its open connections. Fires when it has ended."""
        if self._stopped is None:
            self._stopped = Deferred()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._watch_no_longer()
            self._channel.close()
            self._gone()
        return self._stopped

    def refill(self) -> None:
        """Have a worker again after `stop`."""
        stopped, self._stopped = self._stopped, None
        if stopped is not None and stopped.called:
            self.start()

    def figures(self) -> Iterator[Figures]:
        """Those of the worker, and what remains of those before it."""
        for figures in (self._figures, self._before):
            if figures is not None:
                yield figures

    def signal(self, name: str) -> None:
        """Send the worker a signal, if it runs."""
        if self._process is not None:
            self._process.signalProcess(name)

    def _told(self, message: Message, descriptors: list[int]) -> None:
        self._silent = 0
        relay.receive(message, self._parent.ledger)
        self.open = message.get("open", self.open)
        if "figures" in message:
            from greetsvc.admin.figures import Figures  # only with an admin site

            self._figures = Figures.from_json(message["figures"])
        if message.get("serves") == self.pid:
            self.serves = True
            self._watch_no_longer()
            self._watch_it()
            self._parent.worker_serves(self)

    def _watch_it(self) -> None:
        """Kill the worker when it hangs. Nobody else does: it is the parent that answers the service manager."""
        self._watch = None
        self._silent += 1
        if self._silent > _SILENT:
            silent = _SILENT * _LOOK
            _log.warn(
                "Worker {number} hangs: it said nothing for {silent:g} s", number=self.number + 1, silent=silent
            )
            self.signal("KILL")
        else:
            self._watch = self._parent.reactor.callLater(_LOOK, self._watch_it)

    def _watch_no_longer(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """What the worker wrote on standard output or standard error, past the log."""
        for line in self._errors.add(data):
            _log.warn("Worker {number}: {line}", number=self.number + 1, line=line)

    def processEnded(self, reason: Failure) -> None:
        """The worker has ended."""
        self._process, self.serves, self.open = None, False, 0
        self._watch_no_longer()
        if self._figures is not None:
            ended = self._figures.ended()
            self._before = ended if self._before is None else self._before + ended
            self._figures = None
        if self._stopped is not None:
            self._gone()
        else:
            self._again("ended", f"{ending(reason)}{self._errors.last and ': '}{self._errors.last}")

    def _gone(self) -> None:
        """Tell who waits, once the worker has ended and all that it said was heard."""
        stopped = self._stopped
        if stopped is not None and not stopped.called and self._process is None and self._channel.is_over:
            stopped.callback(None)

    def _again(self, what: str, why: str) -> None:
        """Start another worker, after a pause if it is not the first one that ended early."""
        parent = self._parent
        delay = self._backoff.delay(parent.reactor.seconds() - self._since)
        if not parent.has_served and self._backoff.failures >= _TRIES:
            parent.cannot_start(self, why)
            return
        self.restarts += 1
        when = f" in {delay:g} s" if delay else ""
        _log.warn(
            "Worker {number} {what} ({why}); another one starts{when}",
            number=self.number + 1,
            what=what,
            why=why,
            when=when,
        )
        self._timer = parent.reactor.callLater(delay, self.start)


class Worker(GreetingService):
    """One worker. It ends when its parent is gone, or has closed the channel.

    ``settings_of`` makes settings of the content of the settings file. ``relay`` takes the log events.
    """

    has_site = False

    def __init__(self, origin: Origin, settings_of: Callable[[_File], Settings], reactor: Any = None) -> None:
        self._given = origin.given
        inherited = origin.inherited._replace(complete=True)
        super().__init__(settings_of(origin.given["file"]), reactor, inherited=inherited, workers=origin.given["of"])
        self.reread = lambda: settings_of(self._given["file"])
        self.on_serving = self._tell
        self._timer: IDelayedCall | None = None
        self._channel = Channel(self._told_by_parent, self._alone)
        self._channel.join(self.reactor, origin.channel)
        self.relay = relay.RelayObserver(self._channel)

    def _bound(self, settings: Settings, late: Callable[[ConfigError], object], *, check: bool = False) -> Generation:
        generation = super()._bound(settings, late, check=check)
        self.policy.own_ports = {*self._given["udp_ports"]}
        for one in generation.listening:
            one.leave_path()
        return generation

    def _serve(self, generation: Generation) -> None:
        generation.begin(lambda _spot: None)
        self.reactor.callWhenRunning(self._serves)

    def _start_visit_log(self) -> relay.Forwarder:
        forwarder = relay.Forwarder(self.ledger, self.reactor, self._channel)
        forwarder.start()
        return forwarder

    def _tell(self) -> None:
        self.relay.least = LogLevel.info
        self._channel.say({"serves": os.getpid()})
        self._tell_figures()

    def _tell_figures(self) -> None:
        """Tell the parent, in each period, what it shows to others, and that this process does not hang.

        All workers do so when a period of the clock begins, which is the same for all processes.
        """
        told: Message = {"open": self.admission.open}
        if self.settings.admin is not None:
            told["figures"] = self.figures().as_json()
        self._channel.say(told, may_wait=False)
        self._timer = self.reactor.callLater(PERIOD - self.reactor.seconds() % PERIOD, self._tell_figures)

    def _told_by_parent(self, message: Message, descriptors: list[int]) -> None:
        if "reload" in message:
            done = self._one_reload.run(self._reload_as_told, message, sockets_in(message, descriptors))
            done.addErrback(lambda failure: _log.failure("The settings could not be reloaded", failure))

    def _reload_as_told(self, message: Message, given: Inherited) -> Deferred[None]:
        def reloaded(_done: None) -> None:
            for _, sock in given.held:
                sock.close()
            if not self.last_reload_ok:
                self.reactor.stop()  # one that starts anew may fare better

        self._given = message
        self.inherited = self.inherited._replace(held=given.held)
        return self._read_and_reload().addCallback(reloaded)

    def reload(self) -> None:
        """See `GreetingService`. The parent has told what is no error."""
        self.relay.least = LogLevel.error
        super().reload()
        self.relay.least = LogLevel.info

    def _alone(self) -> None:
        self.reactor.callWhenRunning(self._stop_once)

    def _stop_once(self) -> None:
        """Stop as at SIGTERM, which may have come too: a service manager sends it to all processes at once."""
        if self.running:
            self.relay.least = LogLevel.warn  # Twisted logs that it received a signal
            signal.raise_signal(signal.SIGTERM)

    def _tell_open(self, told: str, whose: str = "", **facts: object) -> None:
        self.relay.least = LogLevel.info
        super()._tell_open(told, f" of worker {self._given['number'] + 1}", **facts)
        self.relay.least = LogLevel.warn

    async def _stop(self) -> None:
        self.relay.least = LogLevel.warn
        await super()._stop()
        if self._timer is not None:
            self._timer.cancel()
            self._tell_figures()
            self._timer.cancel()
        await self._channel.close()


def _is_for(number: int, bound: BoundTo, sock: socket.socket) -> bool:
    """Whether the worker of this number serves this socket, or a sibling of it."""
    return number == 0 or sock.type == socket.SOCK_STREAM or bound.kind == "udp"


def _sibling(bound: BoundTo, sock: socket.socket, number: int) -> BoundTo:
    """What the UDP socket of a worker is known by: that of the first one, with the port that it really has."""
    return bound._replace(kind=f"{bound.kind}/{number}", port=sock.getsockname()[1])


def _took(counted: Counter[BoundTo] | None, bound: BoundTo) -> bool:
    """Whether there was one; it is counted down."""
    if counted is None or not counted[bound]:
        return False
    counted[bound] -= 1
    return True


def _close(sockets: BoundSockets) -> None:
    for _, sock in sockets.bound:
        sock.close()
