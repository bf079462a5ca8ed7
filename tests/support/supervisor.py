"""A service manager, as far as its services can tell: sd_notify(3), the watchdog, and the descriptor store."""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, field

from tests.support.activation import Manager
from tests.support.process import Program
from tests.support.waiting import PATIENCE


@define
class Supervisor:
    """Starts a service and hears what it says. ``messages`` are those heard so far; ``stored`` the sockets it gave.

    With ``watchdog``, in seconds, the service must give a sign of life each time before these have passed.
    """

    folder: Path
    watchdog: float = 0.0
    abstract: bool = False
    messages: list[dict[str, str]] = field(factory=list)
    stored: dict[str, list[socket.socket]] = field(factory=dict)
    heard: socket.socket = field(init=False)
    address: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        path = str(self.folder / "notify")
        self.address = f"@{path}" if self.abstract else path
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind("\0" + path if self.abstract else path)
        self.heard.settimeout(PATIENCE)

    def environment(self) -> dict[str, str]:
        """What it tells a service in variables, besides the sockets."""
        watchdog = {"WATCHDOG_USEC": f"{self.watchdog * 1e6:.0f}"} if self.watchdog else {}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    def start(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> Program:
        """Start the service with ``sockets`` by name, and with those that are stored."""
        passed = [
            (name, one) for named in (sockets or {}, self.stored) for name, ones in named.items() for one in ones
        ]
        manager = Manager([one for _, one in passed], [name for name, _ in passed])
        return Program.start(
            manager.command(*command) if passed else command,
            self.folder / f"output-{time.monotonic_ns()}",
            cwd=self.folder,
            env={**variables, **self.environment()},
            pass_fds=manager.descriptors,
        )

    def wait_for(self, line: str) -> dict[str, str]:
        """The next message with this line, as ``READY=1``, or that names this variable, as ``STATUS``."""
        name, _, value = line.partition("=")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            message = self.hear()
            if message is not None and message.get(name, "\0") == (value or message.get(name)):
                return message
        raise AssertionError(f"no {line} in {self.messages}")

    def hear(self, patience: float = PATIENCE) -> dict[str, str] | None:
        """The next message; None if there is none in time."""
        self.heard.settimeout(patience)
        try:
            data, ancillary, _flags, _peer = self.heard.recvmsg(4096, socket.CMSG_SPACE(64 * 4))
        except (TimeoutError, BlockingIOError):
            return None
        message = dict(row.split("=", 1) for row in data.decode().splitlines())
        self.messages.append(message)
        descriptors = array.array("i", b"".join(part for _, kind, part in ancillary if kind == socket.SCM_RIGHTS))
        if message.get("FDSTORE") == "1":
            self.stored.setdefault(message["FDNAME"], []).extend(socket.socket(fileno=one) for one in descriptors)
        elif "FDSTOREREMOVE" in message:
            for one in self.stored.pop(message["FDNAME"], ()):
                one.close()
        return message

    def watch(self, program: Program, seconds: float) -> bool:
        """Watch for so long whether the service gives signs of life; end it with SIGABRT, as systemd does, if not."""
        end = time.monotonic() + seconds
        last = time.monotonic()
        while time.monotonic() < end:
            message = self.hear(self.watchdog / 10)
            if message is not None and "WATCHDOG" in message:
                last = time.monotonic()
            elif time.monotonic() > last + self.watchdog:
                os.kill(program.pid, signal.SIGABRT)
                os.kill(program.pid, signal.SIGCONT)
                return False
        return True

    def close(self) -> None:
        """Forget the service and what it stored."""
        self.heard.close()
        for one in (one for ones in self.stored.values() for one in ones):
            one.close()
