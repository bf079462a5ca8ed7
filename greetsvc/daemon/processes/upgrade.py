"""An upgrade without loss: SIGUSR2 starts a successor on the same sockets, which takes over when it serves.

The queue of a listening socket and the receive buffer of a datagram socket belong to the socket, not to a process. So
nothing is lost while both processes have it, nor when the old one closes its duplicate. A signal needs no door that
others would have to be kept out of, and works alike for a daemon, in a terminal and under a service manager.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from greetsvc._version import __version__
from greetsvc.daemon.processes.channel import Channel, Message
from greetsvc.daemon.processes.kin import (
    SUCCESSOR,
    Command,
    ErrorLines,
    Origin,
    ending,
    message_of,
    real_pidfile,
    take_back_stderr,
)
from greetsvc.daemon.service import GreetingService
from greetsvc.errors import reason_of

__all__ = ["Succession", "Upgrade"]

_log = Logger(namespace="greetsvc")

_PATIENCE = 60.0
"""Seconds within which a successor must serve."""


class Upgrade(ProcessProtocol):
    """In the process that serves: starts a successor, and stops when that one serves.

    ``twistd`` has twistd's options: their pid file is the successor's then.
    """

    def __init__(self, service: GreetingService, command: Command, twistd: MutableMapping[str, Any]) -> None:
        self._service = service
        self._command = command
        self._twistd = twistd
        self._channel: Channel | None = None
        self._process: IProcessTransport | None = None
        self._limit: IDelayedCall | None = None
        self._errors = ErrorLines()
        self._end = ""

    def begin(self) -> None:
        """Start a successor, unless one is on its way."""
        if self._channel is not None or not self._service.running:
            _log.info("SIGUSR2 ignored: an upgrade or a stop is in progress")
            return
        if self._twistd.get("chroot"):
            _log.error("No upgrade: no program can be started in the folder of --chroot")
            return
        self._errors, self._end = ErrorLines(), ""
        self._channel = channel = Channel(self._told, self._tell_failure)
        try:
            self._process = self._command.start(self._service.reactor, SUCCESSOR, self, channel)
        except OSError as error:
            self._channel = None
            _log.error("No upgrade: {error}", error=reason_of(error))
            return
        self._limit = self._service.reactor.callLater(_PATIENCE, self._give_up)
        channel.say(*message_of(self._service.estate(), {}))
        _log.info("Upgrade: process {pid} starts", pid=self._process.pid)

    def _told(self, message: Message, descriptors: list[int]) -> None:
        if self._channel is None or not self._service.running:
            return
        if "worker" in message:
            self._service.retire(message["worker"])
        elif "ready" in message:
            # The manager believes its main process only, and this one says no more: above all not that it stops.
            self._service.manager.send(f"MAINPID={message['ready']}")
            self._service.manager.close()
            self._channel.say({"go": True})
        elif "went" in message:
            _log.info(
                "Upgrade: process {pid} (greetsvc {version}) serves, this one ends",
                pid=message["went"],
                version=message["version"],
            )
            self._forget_limit()
            self._twistd["pidfile"] = ""  # twistd would remove it, and it is the successor's
            self._service.hand_over(message["paths"])
            self._service.reactor.stop()

    def errReceived(self, data: bytes) -> None:
        """What the successor wrote on standard error."""
        self._errors.add(data)

    def processEnded(self, reason: Failure) -> None:
        """The process that was started has ended: that of a daemon does when its grandchild has started."""
        self._end = ending(reason)
        self._tell_failure()

    def _tell_failure(self) -> None:
        """Say why there is no successor, once its channel is closed and its process has ended."""
        channel = self._channel
        if channel is None or not channel.is_over or not self._end or not self._service.running:
            return
        self._channel = None
        self._forget_limit()
        self._service.refill()
        _log.error(
            "No upgrade, this process goes on: the new one ended ({end}){why}",
            end=self._end,
            why=self._errors.last and f": {self._errors.last}",
        )

    def _give_up(self) -> None:
        self._limit = None
        self._errors.add(f"it did not serve within {_PATIENCE:g} s\n".encode())
        if self._channel is not None:
            self._channel.close()
        if self._process is not None and not self._end:
            self._process.signalProcess("KILL")

    def _forget_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class Succession:
    """In the successor: tells its predecessor when it serves, and ends if that has changed its mind."""

    def __init__(self, service: GreetingService, origin: Origin, twistd: MutableMapping[str, Any]) -> None:
        self._service = service
        self._twistd = twistd
        self._socket = origin.channel
        self._channel = Channel(self._told, self._ended)
        self._took_over = False

    def join(self) -> None:
        """The reactor runs: until now the process may have forked."""
        self._channel.join(self._service.reactor, self._socket)

    def tell_of_worker(self, number: int) -> None:
        """A worker serves, so that the predecessor's may stop: two sets of workers would need more memory."""
        self._channel.say({"worker": number})

    def begin(self) -> None:
        """The service serves."""
        self._channel.say({"ready": os.getpid()})

    def _told(self, message: Message, descriptors: list[int]) -> None:
        if "go" in message:
            self._took_over = True
            take_back_stderr()
            self._service.tell_manager()
            interim = self._twistd.get("pidfile")
            if interim:
                self._twistd["pidfile"] = real_pidfile(interim)
                with suppress(OSError):
                    Path(interim).replace(self._twistd["pidfile"])
            paths = self._service.socket_paths
            self._channel.say({"went": os.getpid(), "version": __version__, "paths": paths})

    def _ended(self) -> None:
        if not self._took_over:
            _log.error("Upgrade cancelled: the old process ended or gave up, so this process stops")
            self._service.reactor.stop()
