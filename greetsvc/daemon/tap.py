# mypy: allow-untyped-calls
# (usage.Options has no types.)
"""What `twistd greetsvc` calls: the options, and the service that they ask for."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.python import usage

from greetsvc._version import __version__
from greetsvc.console import CannotWrite, Lines, ReaderGone, standard
from greetsvc.daemon.config import read_toml, settings
from greetsvc.daemon.logs import json_observer
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings import KEYS, Settings
from greetsvc.errors import ConfigError
from greetsvc.greeters import known_greeters
from greetsvc.printable import escaped

__all__ = ["Options", "answer", "makeService", "refuse"]


def refuse(error: object) -> NoReturn:
    """End with exit status 1 and one line on standard error, whatever characters the error quotes."""
    raise SystemExit(f"greetsvc: {escaped(str(error))}")


def answer(*lines: str) -> NoReturn:
    """End with these lines on standard output and exit status 0, or with an error where they cannot be written."""
    try:
        standard().write(Lines([*lines]))
    except ReaderGone:
        pass
    except CannotWrite as error:
        refuse(f"standard output: {error}")
    raise SystemExit(0)


class Options(usage.Options):
    """Reads the command line into `Settings`; a mistake ends the program in one line and exit status 1.

    What twistd does on a usage error (seven lines on standard output) and twist (exit status 64) would be no help
    to a script.
    """

    synopsis = "[options]"
    longdesc = (
        "Greets whoever connects or sends a datagram. Without --listen: TCP and UDP port 8088 on every address."
    )

    optParameters = [[key.name, None, None, f"{key.meaning} ({key.metavar})"] for key in KEYS if not key.repeatable]  # noqa: RUF012 - as usage.Options wants it

    def __init__(self) -> None:
        self._listen: list[str] = []
        self._trusted: list[str] = []
        self._file: str | None = None
        self.check = False
        super().__init__()

    def opt_listen(self, endpoint: str) -> None:
        """Repeatable: where to listen, an endpoint: tcp:8088, udp:8088, unix:PATH, unixgram:PATH, tls:DIR:port=8443.

        [default: TCP and UDP 8088 on every address]
        """
        self._listen.append(endpoint)

    def opt_trust_proxy(self, network: str) -> None:
        """Repeatable: a network (CIDR) whose PROXY headers count, loopback when left out."""
        self._trusted.append(network)

    def opt_config(self, path: str) -> None:
        """TOML file with the same settings; the command line wins."""
        self._file = path

    def opt_check(self) -> None:
        """Read everything, bind, say what would run, and exit."""
        self.check = True

    def opt_list(self) -> NoReturn:
        """Show the known greeters, a line each."""
        answer(*(f"greeter {name}: {description}" for name, description in known_greeters()))

    def opt_version(self) -> NoReturn:
        """Show the version."""
        answer(f"greetsvc {__version__}")

    def opt_help(self) -> NoReturn:
        """Show the options."""
        answer(str(self))

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is no option."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option; there are no arguments")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; a mistake ends the program."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse(error)

    def settings(self) -> Settings:
        """What the command line and the file ask for. Raises `ConfigError`."""
        given: dict[str, object] = {
            key.name: key.literal(self[key.name]) for key in KEYS if not key.repeatable and self[key.name] is not None
        }
        if self._trusted:
            given["trust-proxy"] = self._trusted
        if self._file is None:
            return settings(given, self._listen)
        return settings(given, self._listen, read_toml(self._file), self._file)


def makeService(options: Options) -> GreetingService:
    """What twistd runs: everything is bound when this returns. A mistake is one line and exit status 1."""
    _count_seconds_steadily()
    try:
        service = GreetingService(options.settings())
        service.bind()
    except ConfigError as mistake:
        refuse(mistake)
    try:
        service.observer = json_observer(options.parent) if service.settings.log_format == "json" else None
    except ConfigError as mistake:
        service.unbind()
        refuse(mistake)
    if options.check:
        lines = service.describe()
        service.unbind()
        answer(*lines)
    service.when_it_fails = _exit_with_failure
    return service


def _exit_with_failure() -> None:
    """Let the process end with status 1, after all else: twistd would say 0, and has no way to be told."""
    atexit.register(os._exit, 1)


def _count_seconds_steadily() -> None:
    """Have the reactor's timers follow the clock that does not jump.

    Twisted's follow the time of day: set back an hour, no deadline would pass for an hour, and connections would pile
    up until nobody is admitted. Timers that exist already were counted by the old clock, and would be lost.
    """
    from twisted.internet import reactor

    timers: Any = reactor
    if not timers.getDelayedCalls():
        timers.seconds = time.monotonic
