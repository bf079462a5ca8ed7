"""Tells a service manager such as systemd how the service is: sd_notify(3), one datagram for each message."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from greetsvc.errors import reason_of
from greetsvc.printable import escaped

__all__ = ["ServiceManager", "watchdog_interval"]

STATUS = 5.0
"""Seconds between two looks at what the service has done."""

MARGIN = 5.0
"""Seconds that the service manager grants beyond the drain, before it kills."""

_GONE = (errno.ECONNREFUSED, errno.ENOTCONN)
"""The socket that we are connected to is closed: a service manager that was started anew has made another one."""

_log = Logger(namespace="greetsvc")


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two signs of life: half of what the manager waits for, as sd_watchdog_enabled(3) advises.

    None if it does not watch this process.
    """
    microseconds, watched = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdecimal() and int(microseconds)) or watched not in {
        "",
        f"{pid}",
    }:
        return None
    return int(microseconds) / 2e6


class ServiceManager:
    """The service manager that waits at the socket that ``environment`` names (NOTIFY_SOCKET), if any.

    Make it before a change of the root folder or the user, which may put the socket out of reach. ``status`` says in
    words how the service is. Nothing here raises: what cannot be sent is told in one line of the log.
    """

    def __init__(self, environment: Mapping[str, str], reactor: Any, status: Callable[[], str]) -> None:
        self._environment = environment
        self._reactor = reactor
        self._status = status
        self._said = ""
        self._watchdog: float | None = None
        self._timer: IDelayedCall | None = None
        self._failed = False
        self._socket: socket.socket | None = None
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            try:
                self._socket.connect(self._address)
            except (OSError, ValueError) as error:
                self._fail(error)

    def ready(self) -> None:
        """The service serves, after a start or a reload. From now on there are signs of life and of its work."""
        self._said = self._status()
        self.send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={self._said}")
        if self._socket is not None and self._timer is None:
            self._watchdog = watchdog_interval(self._environment, os.getpid())
            self._tick()

    def reloading(self) -> None:
        """The service begins to read its settings again; `ready` follows, whether it can use them or not."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, drain: float) -> None:
        """The service stops, which takes up to ``drain`` seconds; signs of life go on until `close`."""
        self.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={(drain + MARGIN) * 1e6:.0f}")

    @property
    def stores(self) -> bool:
        """Whether it keeps sockets while the service is restarted (FDSTORE: FileDescriptorStoreMax of the unit)."""
        room = self._environment.get("FDSTORE", "")
        return self._socket is not None and room.isascii() and room.isdecimal() and int(room) > 0

    def store(self, name: str, sock: socket.socket) -> None:
        """Have it keep a duplicate of a socket; one that it has already it takes for what it is."""
        if self._socket is not None:
            # FDPOLL=0: it would drop a UDP socket with a pending error.
            message = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode()
            self._attempt(lambda to: socket.send_fds(to, [message], [sock.fileno()]))

    def forget(self, name: str) -> None:
        """Have it close the sockets of this name."""
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def close(self) -> None:
        """The service has stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, *lines: str) -> None:
        """Send these lines, if there is a service manager."""
        self._attempt(lambda to: to.send("\n".join(lines).encode()))

    def _attempt(self, send: Callable[[socket.socket], object]) -> None:
        if self._socket is None:
            return
        try:
            try:
                send(self._socket)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self._socket.connect(self._address)
                send(self._socket)
        except (OSError, ValueError) as error:
            self._fail(error)
        else:
            self._failed = False

    def _tick(self) -> None:
        """Show that the reactor is alive, and what it has done."""
        lines = ["WATCHDOG=1"] if self._watchdog is not None else []
        if self._status() != self._said:
            self._said = self._status()
            lines.append(f"STATUS={self._said}")
        if lines:
            self.send(*lines)
        self._timer = self._reactor.callLater(min(STATUS, self._watchdog or STATUS), self._tick)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            where = self._environment.get("NOTIFY_SOCKET", "")
            why = reason_of(error)
            _log.warn(
                "The service manager cannot be told how the service is: NOTIFY_SOCKET={where}: {why}",
                where=escaped(where),
                why=why,
            )
        self._failed = True
