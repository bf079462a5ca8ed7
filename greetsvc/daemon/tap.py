# mypy: allow-untyped-calls
# (usage.Options has no types.)
"""What ``twistd greetsvc`` calls: the options, and the service with these options."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import chdir, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python import usage

from greetsvc._version import __version__
from greetsvc.console import CannotWrite, Lines, ReaderGone, standard
from greetsvc.daemon.inherited import STARTED_AS, Inherited, from_manager
from greetsvc.daemon.logs import Log, limited, open_log
from greetsvc.daemon.owner import Owner, locked
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import read_toml, settings
from greetsvc.daemon.settings.table import SETTINGS, Place, Setting, Settings
from greetsvc.daemon.signals import handle_signals
from greetsvc.daemon.systemd.notify import ServiceManager
from greetsvc.daemon.systemd.unit import unit
from greetsvc.errors import ConfigError, nearest, without_middle
from greetsvc.greeters.registry import known_greeters
from greetsvc.printable import escaped
from greetsvc.protocols.registry import known_protocols

if TYPE_CHECKING:
    from greetsvc.daemon.processes.kin import Origin

__all__ = ["Options", "answer", "makeService", "refuse"]

_OPTIONS = [setting for setting in SETTINGS if Place.COMMAND_LINE in setting.places]
_MARGIN = 26
"""The column in which the help has the meaning of an option."""

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

_FOR_UPGRADE = "greetsvc.daemon.processes.upgrade"
"""What an upgrade needs. It is loaded at the start: later it might be that of a version installed over this one."""

_LATER = (
    _FOR_UPGRADE,
    "encodings.idna",
    "greetsvc.daemon.proxied",
    "greetsvc.net.tls.endpoint",
    "greetsvc.net.tls.pem",
    "tomllib",
    "twisted.internet.endpoints",
    "twisted.protocols.tls",
)
"""What visits, reloads and upgrades may need. After --chroot no module can be loaded any more."""


def refuse(error: object) -> NoReturn:
    """End with exit status 1 and one line on standard error, whatever the error quotes, and however long that is."""
    raise SystemExit(f"greetsvc: {without_middle(escaped(str(error)))}")


def answer(*lines: str) -> NoReturn:
    """Print these lines on standard output and end with exit status 0; `refuse` if they cannot be written."""
    try:
        standard().write(Lines([*lines]))
    except ReaderGone:
        pass
    except CannotWrite as error:
        refuse(f"standard output: {error}")
    raise SystemExit(0)


class Options(usage.Options):
    """Reads the command line. The methods ``opt_NAME``, by which the base class finds options, come from the records.

    A usage error ends the program with one line and exit status 1. twistd would print seven lines on standard output,
    and twist would exit with status 64: neither is of use to a script.
    """

    synopsis = "[options]"

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.file: dict[str, Any] | None = None
        super().__init__()

    def getSynopsis(self) -> str:
        """How the program that runs is called: ``twistd [options] greetsvc [options]``, or ``greetsvc [options]``."""
        name = Path(sys.argv[0])
        if name.name == "__main__.py":
            return f"Usage: {Path(sys.executable).name} -m {name.parent.name} {self.synopsis}"
        if name.name == "greetsvc":
            return f"Usage: greetsvc {self.synopsis}"
        return str(super().getSynopsis())

    def getUsage(self, width: int | None = None) -> str:
        """The help: each option with its metavar, its meaning and its default."""
        width = max(2 * _MARGIN, width or shutil.get_terminal_size().columns)
        lines = ["", "Greets each peer that connects or sends a datagram.", "", "Options:"]
        for setting in _OPTIONS:
            option = f"  {setting.option}".ljust(_MARGIN)
            lines += textwrap.wrap(setting.help, width, initial_indent=option, subsequent_indent=" " * _MARGIN)
        return "\n".join(lines)

    def parseArgs(self, *arguments: str) -> None:
        """Answer ``--help`` and other questions, and refuse what is not an option."""
        if "help" in self.given:
            answer(str(self))
        if "version" in self.given:
            answer(f"greetsvc {__version__}")
        if "list" in self.given:
            known = {"greeter": known_greeters(), "protocol": known_protocols()}
            answer(*(f"{kind} {name}: {what}" for kind, plugins in known.items() for name, what in plugins))
        if "print-unit" in self.given:
            answer(unit(self.given["print-unit"]))
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option, and there are no other arguments")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line, or end the program."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse(f"{error}{_near(str(error))}")
        if self.parent is not None and STARTED_AS in os.environ:
            from greetsvc.daemon.processes.kin import adapt

            adapt(self.parent)

    def settings(self) -> Settings:
        """The settings from the command line and the file. Raises `ConfigError`."""
        path = self.given.get("config")
        self.file = None if path is None else read_toml(path)
        return self.settings_with(self.file)

    def settings_with(self, file: Mapping[str, Any] | None) -> Settings:
        """The settings from the command line and this content of the file. Raises `ConfigError`."""
        return settings(self.given, self.given.get("listen", ()), file, self.given.get("config") or "")


def _near(error: str) -> str:
    """The option that was probably meant, where the base class does not know one."""
    unknown = re.fullmatch("option --(.*) not recognized", error)
    near = nearest(unknown[1], [setting.name for setting in _OPTIONS]) if unknown else None
    return f"; did you mean --{near}?" if near else ""


def _read(setting: Setting, value: str) -> Any:
    """The value of an option that is no setting of a file, so that nobody else checks it."""
    try:
        return setting.read(value)
    except ConfigError as error:
        refuse(f"--{setting.name}: {error}")


def _handler(setting: Setting) -> Callable[..., None]:
    """The method that handles an option. For the base class, a method without a parameter is that of a flag."""

    def take_flag(self: Options) -> None:
        self.given[setting.name] = True

    def take(self: Options, value: str) -> None:
        if setting.repeatable:
            self.given.setdefault(setting.name, []).append(value)
        elif Place.FILE in setting.places or not setting.words:
            self.given[setting.name] = setting.literal(value)
        else:
            self.given[setting.name] = _read(setting, value)

    return take if setting.metavar else take_flag


for _setting in _OPTIONS:
    setattr(Options, f"opt_{_setting.attribute}", _handler(_setting))
Options.opt_h = Options.opt_help  # type: ignore[attr-defined]


def makeService(options: Options) -> GreetingService:
    """The service, with every socket bound. What is wrong with settings or host is one line, and exit status 1."""
    try:
        return _made(options)
    except ConfigError as error:
        refuse(error)
    except MemoryError:
        refuse("this host: out of memory")
    except OSError as error:
        if error.errno not in _SHORTAGES:
            raise
        refuse(f"this host: {error.strerror}")


def _made(options: Options) -> GreetingService:
    from twisted.internet import reactor

    _use_monotonic_timers()
    check = "check" in options.given
    owner = Owner.of(options.parent)
    origin = _origin()
    inherited = from_manager() if origin is None else origin.inherited
    if origin is not None and origin.is_worker:
        return _worker(options, origin)
    service = _service(options, inherited)
    if not check:
        service.manager = ServiceManager(os.environ, reactor, service.status)
    service.bind(check=check)
    try:
        if not check:
            service.prepare()
        log = open_log(options.parent, service.settings.log_format, owner, check=check)
    except BaseException:
        service.unbind()
        raise
    if check:
        lines = service.describe()
        service.unbind()
        answer(*lines)
    service.observer = log.observer
    kept = [owner.give_socket(path) for path in service.socket_paths]
    service.warnings += filter(None, [*kept, log.file.kept if log.file is not None else ""])
    service.obstacles = partial(_obstacles, service, log)
    service.has_file = "config" in options.given
    service.reread = partial(_reread, options, log, _folder())
    service.on_reload = lambda settings: log.use_format(settings.log_format)
    twistd = options.parent if options.parent is not None else {}
    upgrade = partial(_upgrade, service, _folder(), twistd)
    handle_signals(reactor, rotate=log.rotate, reload=service.begin_reload, upgrade=upgrade)
    if origin is not None:
        from greetsvc.daemon.processes.upgrade import Succession

        succession = Succession(service, origin, twistd)
        reactor.callWhenRunning(succession.join)
        service.on_serving = succession.begin
        service.start_one_by_one(succession.tell_of_worker)
    for name in _LATER if twistd.get("chroot") else (_FOR_UPGRADE,):
        with suppress(ImportError):  # what needs it tells
            import_module(name)
    # An exit handler ends the process with status 1, because twistd would exit with 0 and has no hook.
    service.on_failure = lambda: atexit.register(os._exit, 1)
    gc.freeze()  # what exists now stays: a full collection need not look at it, which took 27 ms
    return service


def _service(options: Options, inherited: Inherited) -> GreetingService:
    """The service in one process, or as the parent of workers. Raises `ConfigError`."""
    settings = options.settings()
    if settings.workers == 1:
        return GreetingService(settings, inherited=inherited)
    if options.parent is not None and options.parent.get("chroot"):
        raise ConfigError("--workers: cannot be combined with --chroot: no program can be started in that folder")
    from greetsvc.daemon.processes.kin import Command  # few services need these
    from greetsvc.daemon.processes.workers import Workers

    return Workers(settings, Command.of_this_process(_folder()), lambda: options.file, inherited=inherited)


def _nothing() -> None:
    """What a signal does to a worker: `greetsvc.daemon.processes.kin.adapt` has it ignored anyway."""


def _worker(options: Options, origin: Origin) -> GreetingService:
    """One worker: its parent has the log, the pid file, and the signals that a reload or an upgrade begins with."""
    from twisted.internet import reactor

    from greetsvc.daemon.processes.workers import Worker

    worker = Worker(origin, options.settings_with)
    worker.bind()
    worker.observer = limited(worker.relay)
    if options.parent is not None and "fileLogObserverFactory" in options.parent:  # twist makes its log itself
        options.parent["fileLogObserverFactory"] = lambda _file: worker.observer
    handle_signals(reactor, rotate=_nothing, reload=_nothing, upgrade=_nothing)
    return worker


def _origin() -> Origin | None:
    """What a process of this service gave to this one; None where somebody else started it. Raises `ConfigError`."""
    if STARTED_AS not in os.environ:
        return None
    from greetsvc.daemon.processes.kin import Origin  # as below: few processes need it

    return Origin.of_this_process()


def _upgrade(service: GreetingService, folder: str, twistd: MutableMapping[str, Any]) -> None:
    from greetsvc.daemon.processes.kin import Command
    from greetsvc.daemon.processes.upgrade import Upgrade

    if service.upgrade is None:
        service.upgrade = Upgrade(service, Command.of_this_process(folder), twistd)
    service.upgrade.begin()


def _obstacles(service: GreetingService, log: Log) -> Iterator[str]:
    """What is out of reach for the user that the process is now, and in the folder that is its root."""
    if log.file is not None and log.file.obstacle:
        yield log.file.obstacle
    for path in service.socket_paths:
        why = locked(path)
        if why:
            yield f"{escaped(path)} will be left behind when the service stops: {why}"


def _reread(options: Options, log: Log, folder: str) -> Settings:
    """The settings from the same command line and from the files as they are now.

    Relative paths mean what they meant in ``folder``, where the program started. Raises `ConfigError`.
    """
    try:
        with chdir(folder) if folder != _folder() else nullcontext():
            settings = options.settings()
    except OSError as error:
        raise ConfigError(f"{folder!r}, where the program started, is out of reach: {error.strerror}") from error
    log.check_format(settings.log_format)
    return settings


def _folder() -> str:
    """The current folder; empty if it is gone."""
    try:
        return os.getcwd()  # noqa: PTH109 - Path.cwd() reads the same
    except OSError:
        return ""


def _use_monotonic_timers() -> None:
    """Make the reactor's timers follow the monotonic clock.

    Twisted's timers follow the time of day: if that is set back by an hour, no deadline passes for an hour, and open
    connections pile up until no new one is admitted. Timers that exist already were set by the time of day and would
    be lost, so the clock stays as it is then.
    """
    from twisted.internet import reactor

    timers: Any = reactor
    if not timers.getDelayedCalls():
        timers.seconds = time.monotonic
