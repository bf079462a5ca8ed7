"""The processes of one service: how one starts another, and what a started one was given.

A worker shares the work of its parent; a successor takes the place of its predecessor (an upgrade). Either is the
same command in a fresh interpreter, so that a new version on disk is what runs, with a variable that says what it is.
A fork without exec would share the reactor's epoll, its threads and its memory.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from attrs import define, frozen
from twisted.internet.interfaces import IProcessProtocol, IProcessTransport
from twisted.python.failure import Failure

from greetsvc.daemon.inherited import STARTED_AS, Inherited, Passed
from greetsvc.daemon.processes.channel import Channel, Message, first_message
from greetsvc.errors import ConfigError, reason_of, without_middle
from greetsvc.greeters.path import INSTANCE, INSTANCE_VARIABLE
from greetsvc.net.bound import BoundTo
from greetsvc.printable import escaped

__all__ = [
    "SUCCESSOR",
    "WORKER",
    "Command",
    "ErrorLines",
    "Origin",
    "adapt",
    "ending",
    "message_of",
    "real_pidfile",
    "take_back_stderr",
]

WORKER, SUCCESSOR = "worker", "successor"

_CHANNEL, _STDERR = 3, 4
"""Descriptors that such a process begins with: its channel, and for a successor the standard error to go on with."""

_FOREIGN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
"""Variables of the service manager that name another process, or sockets which the channel carries."""

_LONGEST_TEXT = 65536
"""Bytes of standard error that are looked at together."""

_NOTHING_SAID = "Please look at log file for more information."
"""How twistd ends what it says of a start that failed: the line before says why."""

_OF_MAIN = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
"""Variables that are for the main process only."""


_INTERIM = ".new"
"""The end of the name of a successor's pid file until it takes over: twistd would not start beside the real one."""

_TWISTD_OF_WORKER = {
    **dict.fromkeys(("uid", "gid", "chroot", "logfile", "logger", "profile")),
    "nodaemon": True,
    "syslog": False,
    "pidfile": "",
}
"""What a worker's copy of the command line does not do: its parent has done it."""


def adapt(twistd: MutableMapping[str, Any]) -> None:
    """Change the options of twistd, or twist, to those of a worker or a successor.

    To be called before anything uses them, so before `Origin.of_this_process`.
    """
    role = os.environ.get(STARTED_AS)
    if role == WORKER:
        twistd.update({name: value for name, value in _TWISTD_OF_WORKER.items() if name in twistd})
        # What is sent to all processes of a terminal, or of a name, is for the parent.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    elif role == SUCCESSOR and twistd.get("pidfile"):
        twistd["pidfile"] += _INTERIM
        with suppress(OSError):
            os.unlink(twistd["pidfile"])  # noqa: PTH108 - that of one that was killed


def real_pidfile(interim: str) -> str:
    """Where the pid file of a successor belongs."""
    return interim.removesuffix(_INTERIM)


@frozen
class Origin:
    """What this process was started as, and what the process that started it says: at first what it holds."""

    role: str
    inherited: Inherited
    given: Message
    channel: socket.socket

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker, and not a successor."""
        return self.role == WORKER

    @classmethod
    def of_this_process(cls) -> Origin:
        """Take what this process was given. Raises `ConfigError`."""
        role = os.environ.pop(STARTED_AS, "")
        try:
            if role not in {WORKER, SUCCESSOR}:
                raise ValueError("greetsvc sets this variable itself")
            channel = socket.socket(fileno=_CHANNEL)
            channel.set_inheritable(False)
            given, descriptors = first_message(channel)
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"{STARTED_AS}: {role!r}: {reason_of(error)}") from error
        return cls(role, sockets_in(given, descriptors), given, channel)


def message_of(inherited: Inherited, message: Message) -> tuple[Message, list[int]]:
    """The message with what is inherited, and the descriptors that belong to it."""
    # Field by field: a process that was installed over imports this beside classes of its own version.
    told = [(bound.kind, bound.host, bound.port, bound.v6only) for bound, _ in inherited.held]
    descriptors = [*(one.descriptor for one in inherited.passed), *(sock.fileno() for _, sock in inherited.held)]
    return {**message, "passed": [one.name for one in inherited.passed], "held": told}, descriptors


def sockets_in(message: Message, descriptors: list[int]) -> Inherited:
    """The opposite of `message_of`."""
    names = message["passed"]
    passed = tuple(Passed(*pair) for pair in zip(descriptors, names, strict=False))
    held = [socket.socket(fileno=descriptor) for descriptor in descriptors[len(names) :]]
    for sock in held:
        sock.setblocking(False)
    return Inherited(passed, tuple(zip((BoundTo(*each) for each in message["held"]), held, strict=True)))


@frozen
class Command:
    """How this program was started: its command line, and the folder that relative paths in it belong to."""

    words: tuple[str, ...]
    folder: str

    @classmethod
    def of_this_process(cls, folder: str) -> Command:
        """That of this process, which was started in ``folder``. `sys.argv` lacks the options of Python itself."""
        return cls((sys.executable, *sys.orig_argv[1:]), folder)

    def start(self, reactor: Any, role: str, protocol: IProcessProtocol, channel: Channel) -> IProcessTransport:
        """Start it once more as a worker or a successor, and connect ``channel`` with it.

        ``protocol`` hears its standard error, and of a worker its standard output. Where the folder is gone it starts
        in the root folder: only relative paths need it. Raises `OSError`.
        """
        folder = self.folder if os.path.isdir(self.folder) else "/"  # noqa: PTH112
        try:
            os.getcwd()  # noqa: PTH109 - Twisted compares the two
        except OSError:
            os.chdir("/")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        files: dict[int, Any] = {0: 0, 1: "r", 2: "r", _CHANNEL: theirs.fileno()}
        if role == SUCCESSOR:
            files |= {1: 1, _STDERR: 2}
        with ours, theirs:
            process = reactor.spawnProcess(
                protocol, self.words[0], self.words, _environment(role, os.environ), folder, childFDs=files
            )
            channel.join(reactor, ours)
        return process  # type: ignore[no-any-return]


def _environment(role: str, environment: Mapping[str, str]) -> dict[str, str]:
    left_out = _FOREIGN if role == SUCCESSOR else (*_FOREIGN, *_OF_MAIN)
    kept = {name: value for name, value in environment.items() if name not in left_out}
    return {**kept, STARTED_AS: role, **({INSTANCE_VARIABLE: INSTANCE} if role == WORKER else {})}


def take_back_stderr() -> None:
    """Write errors to where the predecessor did; until now it read them, to tell why its successor did not start."""
    os.dup2(_STDERR, 2)
    os.close(_STDERR)


@define
class ErrorLines:
    """Splits what a process writes on standard error into lines; ``last`` is the last one that says something."""

    last: str = ""
    _rest: bytes = b""

    def add(self, data: bytes) -> list[str]:
        """The lines that are complete now, as they may be logged."""
        *lines, self._rest = (self._rest + data)[-_LONGEST_TEXT:].split(b"\n")
        told = [
            without_middle(escaped(line.decode("utf-8", "backslashreplace").strip()))
            for line in lines
            if line.strip()
        ]
        self.last = next((line for line in reversed(told) if line != _NOTHING_SAID), self.last)
        return told


def ending(reason: Failure) -> str:
    """How a process ended, in words."""
    how: Any = reason.value  # ProcessDone or ProcessTerminated
    return f"signal {how.signal}" if how.signal else f"exit status {how.exitCode or 0}"
