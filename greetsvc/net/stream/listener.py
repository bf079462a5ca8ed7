"""The stream listener: one class for TCP, UNIX and inherited sockets, over a socket that is already listening.

It accepts in bounded batches, so that datagrams and timers get their turns, and it survives every error of `accept`.
Binding (`greetsvc.net.sockets`) and listening are two steps: a service binds before it forks and gives up its
privileges, and may register with the reactor only afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    ILoggingContext,
    IProtocolFactory,
    IReadDescriptor,
)
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python import log
from twisted.python.failure import Failure
from twisted.python.reflect import qual
from zope.interface import implementer

from greetsvc.net.address import address_factory
from greetsvc.net.descriptors import SpareDescriptor
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.linux.wakeups import wake_one
from greetsvc.net.sockets import UnixPath, reason
from greetsvc.net.stream.accepted import counts_queue, queue_length
from greetsvc.net.stream.batch import Batch, IConstantAnswer
from greetsvc.net.stream.transport import StreamTransport, UnixStreamTransport

__all__ = ["MAX_ACCEPTED", "PAUSE", "StreamPort"]

_log = Logger()

MAX_ACCEPTED = 64
"""Connections accepted in one turn of the reactor."""

PAUSE = 0.05
"""Seconds for which nothing is accepted after the system ran out of descriptors or memory."""

_MAX_QUEUED = 4096
"""Connections accepted from the queue when listening stops: as many as `net.core.somaxconn` usually allows."""

_LOG_INTERVAL = 1.0
"""Seconds between two warnings that connections cannot be accepted."""

_STREAM = int(socket.SOCK_STREAM)

# The connection is gone or forbidden, or its network is in trouble: the next one may be fine (accept(2)).
_PASSING_ERRORS = {
    getattr(errno, name)
    for name in ("ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "ENONET")
    if hasattr(errno, name)
}


@implementer(IListeningPort, IReadDescriptor, ILoggingContext)
class StreamPort:
    """Accepts connections on ``sock``, which is bound, listening and non-blocking, for a Twisted ``factory``.

    ``lingerers`` makes ``loseConnection`` a lingering close; without it closing is what it is in Twisted. ``path`` is
    the file of a UNIX socket, which is removed when listening stops. ``dropped`` is called with the reason for each
    connection that is lost before the factory hears of it: ``accept-`` and the name of the error, as in
    ``accept-EMFILE``. A factory whose class implements `IConstantAnswer` may answer without protocols.

    With ``shared``, other processes accept from the same socket: the kernel then wakes one of them for a connection.

    ``accepted`` counts the connections that were taken from the queue. ``kind`` names the port in the log, which
    says when the port starts and closes, as in Twisted, if the factory is noisy.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: IProtocolFactory,
        reactor: Any,
        *,
        lingerers: Lingerers | None = None,
        path: UnixPath | None = None,
        shared: bool = False,
        dropped: Callable[[str], object] | None = None,
    ) -> None:
        self.factory = factory
        self.reactor = reactor
        self.lingerers = lingerers
        self.listening = False
        self.kind = "UNIX" if sock.family == socket.AF_UNIX else "TCP"
        self.accepted = 0
        self.address_of: Callable[[Any], IAddress] = address_factory(sock.family, "TCP")
        self.socket = sock
        self._family = int(sock.family)
        # Where the length is not known it counts as full: `accept` then says when there are no more.
        self._queued: Callable[[], int] = partial(queue_length, sock) if counts_queue(sock) else lambda: MAX_ACCEPTED
        self._path = path
        self._shared = shared
        self._dropped = dropped
        is_unix = sock.family == socket.AF_UNIX
        self._transport = UnixStreamTransport if is_unix else StreamTransport
        self._host = self.address_of(sock.getsockname())
        # Asked of the class: a wrapper that delegates attributes provides what the wrapped factory provides, and
        # must not be bypassed.
        self._answers: Any = factory if not is_unix and IConstantAnswer.implementedBy(type(factory)) else None
        self._prefix = qual(factory.__class__)
        self._pause: IDelayedCall | None = None
        self._spare = SpareDescriptor()
        self._next_warning = 0.0

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._prefix} on {self._host}{'' if self.listening else ' (not listening)'}>"
        )

    # IListeningPort

    def startListening(self) -> None:
        """Start the factory, and accept connections from now on.

        Connections that came earlier are in the kernel's queue. A port that was stopped cannot be started again.
        """
        if self.listening:
            return
        factory: Any = self.factory
        prefix = factory.logPrefix() if ILoggingContext.providedBy(factory) else type(factory).__name__
        self._log_if_noisy(f"{prefix} starting on {self._name!r}")
        factory.doStart()  # which may raise: then the port is as it was
        self.listening = True
        self._spare.open()
        self._read()

    def stopListening(self) -> Deferred[None]:
        """Accept what is in the queue, close the socket, remove its file, and stop the factory.

        A port that was never started only closes its socket and removes its file.
        """
        if self.listening:
            # The kernel resets connections that are in the queue when the socket is closed.
            self._accept(_MAX_QUEUED, _MAX_QUEUED)
        return execute(self._close)

    def leave_path(self) -> None:
        """Leave the file of a UNIX socket where it is at the end: another process goes on with the socket."""
        self._path = None

    def release(self) -> None:
        """Close without a look at the queue and the file: another port has a duplicate of the socket."""
        self._path = None
        self._close()

    def getHost(self) -> IAddress:
        """The address that the socket is bound to."""
        return self._host

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor of the socket; -1 once it is closed."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """The prefix of messages that are logged while connections are accepted."""
        return self._prefix

    def doRead(self) -> None:
        """Accept a batch: one connection, then those that came meanwhile."""
        self._accept(1, MAX_ACCEPTED)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self._close()

    # Accepting

    def _accept(self, queued: int, limit: int) -> None:
        """Accept ``queued`` connections, then those that came meanwhile, ``limit`` in all."""
        batch = self._batch()
        try:
            while queued and limit and self.listening:
                queued = min(queued, limit)
                limit -= queued
                queued = self._queued() if self._take(queued, batch) and self.listening else 0
        finally:
            if batch is not None:
                batch.end()

    def _batch(self) -> Batch | None:
        """Answers what is accepted now, if the factory has a constant answer."""
        if self._answers is None or self.lingerers is None:
            return None
        try:
            data = self._answers.constant_answer()
        except Exception:  # noqa: BLE001 - protocols are built instead
            _log.failure("constant_answer() of the factory raised")
            return None
        return None if data is None else Batch(self._answers, self.lingerers, data)

    def _take(self, limit: int, batch: Batch | None) -> bool:
        """Accept up to ``limit`` connections; False if the queue is empty or accepting has to end."""
        accept = self.socket._accept  # type: ignore[attr-defined]  # `socket.accept` without the Python object
        # A socket that is made while the process has a default timeout would wait in every call.
        blocks = socket.getdefaulttimeout() is not None
        for _ in range(limit):
            try:
                fd, name = accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _PASSING_ERRORS:
                    self._out_of_resources(error)
                    return False
                self._drop(error)
                continue
            sock = socket.SocketType(self._family, _STREAM, 0, fd)
            if blocks:
                sock.setblocking(False)
            self.accepted += 1
            try:
                answered = batch is not None and batch.answer(sock, name)
            except BaseException:  # noqa: BLE001 - as in Twisted: it ends this connection, not the listener
                _log.failure("A connection could not be answered")
                sock.close()
                continue
            if not answered:
                self._connect(sock, name)
            if not self.listening:
                return False
        return True

    def _connect(self, sock: socket.SocketType, name: Any) -> None:
        """Build a protocol for an accepted socket and connect the two. Raises nothing."""
        try:
            peer = self.address_of(name)
            protocol = self.factory.buildProtocol(peer)
        except BaseException:  # noqa: BLE001 - as in Twisted: it ends this connection, not the listener
            _log.failure("No protocol could be built")
            protocol = None
        if protocol is None:
            sock.close()
        else:
            self._transport(sock, peer, self.accepted, self).start(protocol)

    def _drop(self, error: OSError, count: int = 1) -> None:
        """Report ``count`` connections that were lost. Raises nothing."""
        if self._dropped is None:
            return
        try:
            for _ in range(count):
                self._dropped(reason("accept", error))
        except Exception:  # noqa: BLE001 - the listener goes on
            _log.failure("The callback for dropped connections raised")

    def _out_of_resources(self, error: OSError) -> None:
        """Descriptors or memory have run out.

        As in Twisted, a descriptor that is kept in reserve is used to accept and close what is in the queue. Without
        one, connections wait.
        """
        closed = 0
        if error.errno == errno.EMFILE and self._spare.is_open:
            closed = self._spare.accept_and_close(self.socket, MAX_ACCEPTED)
            self._drop(error, closed)
        elif self._pause is None and self.listening:
            self.reactor.removeReader(self)
            self._pause = self.reactor.callLater(PAUSE, self._end_pause)
        now = self.reactor.seconds()
        if now >= self._next_warning:
            self._next_warning = now + _LOG_INTERVAL
            _log.warn(
                "Cannot accept connections on {host}: {error}; closed {closed}",
                host=self._host,
                error=error.strerror,
                closed=f"{closed} waiting connection{'s' * (closed != 1)}",
            )

    def _end_pause(self) -> None:
        self._pause = None
        self._spare.open()
        self._read()

    def _read(self) -> None:
        self.reactor.addReader(self)
        if self._shared:
            wake_one(self.reactor, self.fileno())

    def _close(self) -> None:
        if self.listening:
            self.reactor.removeReader(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._spare.close()
        self.socket.close()
        if self._path is not None:
            self._path.remove()
        if self.listening:
            self.listening = False
            self._log_if_noisy(f"({self.kind} Port {self._name} Closed)")
            self.factory.doStop()

    @property
    def _name(self) -> int | str:
        """The port number or the path."""
        host: Any = self._host
        return os.fsdecode(host.name or "") if self.kind == "UNIX" else host.port

    def _log_if_noisy(self, text: str) -> None:
        """Log ``text`` as Twisted's ports do, if the factory (or the one it wraps) is noisy."""
        factory: Any = self.factory
        while isinstance(factory, WrappingFactory):
            factory = factory.wrappedFactory
        if getattr(factory, "noisy", True):
            log.msg(text)
