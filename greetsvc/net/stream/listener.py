"""The stream listener: one class for TCP, UNIX and inherited sockets, over a socket that is already listening.

It accepts in bounded batches, so that datagrams and timers have their turns, and it outlives whatever `accept` can
report. Binding (`greetsvc.net.sockets`), starting and reading are three steps, because a service binds before it
forks and gives up its privileges, and may register with the reactor only afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, ILoggingContext, IReadDescriptor
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python import log
from twisted.python.reflect import qual
from zope.interface import implementer

from greetsvc.net.descriptors import SpareDescriptor
from greetsvc.net.stream.accepted import ADDRESSES, counts_queue, queue_length
from greetsvc.net.stream.batch import Batch, IAnswersAtOnce, itself
from greetsvc.net.stream.transport import StreamTransport, UnixStreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory
    from twisted.python.failure import Failure

    from greetsvc.net.linger.sweep import Lingerers
    from greetsvc.net.sockets import UnixPath

__all__ = ["BATCH", "StreamPort"]

_log = Logger()

BATCH = 64
"""Connections accepted in one turn of the reactor."""

DRAIN = 4096
"""Connections accepted from the queue of a listener that stops: as long as the queue usually can be."""

PAUSE = 0.05
"""Seconds for which nothing is accepted when the system has no descriptors or memory left."""

_QUIET = 1.0
_STREAM = int(socket.SOCK_STREAM)
# The connection is gone or forbidden, or its network is in trouble; the next one may be well (accept(2)).
_PASSING = {
    getattr(errno, name)
    for name in ("ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "ENONET")
    if hasattr(errno, name)
}


@implementer(IListeningPort, IReadDescriptor, ILoggingContext)
class StreamPort:
    """Accepts connections on ``sock``, which is bound, listening and non-blocking, for a Twisted factory.

    ``accepted`` counts the connections taken from the queue, ``refused`` those of them that were closed
    unanswered or failed in `accept`. ``path`` is the file of a UNIX socket, to be removed when listening stops.
    ``kind`` is what the log calls it: as in Twisted it logs that it starts and closes, if the factory is noisy.
    Without ``lingerers`` closing is what it is in Twisted. A factory that is an `IAnswersAtOnce` is asked first.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: IProtocolFactory,
        reactor: Any,
        *,
        lingerers: Lingerers | None = None,
        path: UnixPath | None = None,
    ) -> None:
        self.factory = factory
        self.reactor = reactor
        self.lingerers = lingerers
        self.listening = False
        self.kind = "UNIX" if sock.family == socket.AF_UNIX else "TCP"
        self.accepted = 0
        self.refused = 0
        self.address_of = ADDRESSES[sock.family]
        self.socket = sock
        self._family = int(sock.family)
        # Where it is not known, as many as there can be: then `accept` says so when there are no more.
        self._waiting: Callable[[], int] = partial(queue_length, sock) if counts_queue(sock) else lambda: BATCH
        self._path = path
        self._transport = UnixStreamTransport if sock.family == socket.AF_UNIX else StreamTransport
        self._host = self.address_of(sock.getsockname())
        self._answers = None if sock.family == socket.AF_UNIX else itself(factory, IAnswersAtOnce)
        self._prefix = qual(factory.__class__)
        self._reading = False  # asked for
        self._began = False
        self._pause: IDelayedCall | None = None
        self._spare = SpareDescriptor()
        self._quiet_until = 0.0

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._prefix} on {self._host}{'' if self.listening else ' (not listening)'}>"
        )

    # IListeningPort

    def startListening(self) -> None:
        """Start the factory. Connections wait in the kernel's queue until `resumeReading`."""
        if self.listening:
            return
        self.listening = True
        self._spare.hold()
        factory: Any = self.factory
        prefix = factory.logPrefix() if ILoggingContext.providedBy(factory) else type(factory).__name__
        self._say(f"{prefix} starting on {self._name!r}")
        factory.doStart()

    def stopListening(self) -> Deferred[None]:
        """Greet who is in the queue already, close the socket, and stop the factory."""
        if self._began and self.listening:
            self.drain()
        return execute(self._close)

    def getHost(self) -> IAddress:
        """The address listened on."""
        return self._host

    # Reading

    def resumeReading(self) -> None:
        """Accept connections, until told otherwise."""
        if self.listening:
            self._began = self._reading = True
            if self._pause is None:
                self.reactor.addReader(self)

    def pauseReading(self) -> None:
        """Leave connections in the kernel's queue for now."""
        if self._reading:
            self._reading = False
            self.reactor.removeReader(self)

    def drain(self) -> None:
        """Accept whoever is in the queue now: the kernel resets them when the socket closes."""
        self._reading = True
        self._accept(DRAIN, DRAIN)

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """What is put before messages logged while a connection is made."""
        return self._prefix

    def doRead(self) -> None:
        """Accept a batch: one, and then those that have come meanwhile."""
        self._accept(1, BATCH)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self._close()

    # How it is done

    def _accept(self, waiting: int, most: int) -> None:
        """Accept who waits, and who comes meanwhile, up to ``most``."""
        batch = self._batch()
        try:
            while waiting and most and self._reading:
                waiting = min(waiting, most)
                most -= waiting
                waiting = self._waiting() if self._take(waiting, batch) and self._reading else 0
        finally:
            if batch is not None:
                batch.end()

    def _batch(self) -> Batch | None:
        """What those that are accepted now read, if the factory has the same for all."""
        if self._answers is None or self.lingerers is None:
            return None
        try:
            data = self._answers.at_once()
        except Exception:  # noqa: BLE001 - as where no protocol can be built
            _log.failure("The factory could not say what it answers at once")
            return None
        return None if data is None else Batch(self._answers, self.lingerers, data)

    def _take(self, most: int, batch: Batch | None) -> bool:
        """Accept up to ``most``; False if that was all there was, or all there can be."""
        accept = self.socket._accept  # type: ignore[attr-defined]
        # A socket that is made while the process has a default timeout would wait in every call.
        blocks = socket.getdefaulttimeout() is not None
        for _ in range(most):
            try:
                fd, name = accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _PASSING:
                    self._run_short(error)
                    return False
                self.refused += 1
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
                self._welcome(sock, name)
            if not self._reading:
                return False
        return True

    def _welcome(self, sock: socket.SocketType, name: Any) -> None:
        """Make a connection of an accepted socket. Raises nothing."""
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

    def _run_short(self, error: OSError) -> None:
        """Descriptors or memory have run out.

        As in Twisted, a descriptor held in reserve is used to turn away who waits. Without one they wait.
        """
        turned_away = 0
        if error.errno == errno.EMFILE and self._spare.held:
            turned_away = self._spare.turn_away(self.socket, BATCH)
            self.refused += turned_away
        else:
            self._wait()
        now = self.reactor.seconds()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.warn(
                "Cannot accept connections on {host}: {error}; {turned_away} turned away",
                host=self._host,
                error=error.strerror,
                turned_away=turned_away,
            )

    def _wait(self) -> None:
        if self._pause is None and self.listening:
            self.reactor.removeReader(self)
            self._pause = self.reactor.callLater(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._spare.hold()
        if self._reading:
            self.reactor.addReader(self)

    def _close(self) -> None:
        self.pauseReading()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._spare.release()
        self.socket.close()
        if self._path is not None:
            self._path.remove_or_say()
        if self.listening:
            self.listening = False
            self._say(f"({self.kind} Port {self._name} Closed)")
            self.factory.doStop()

    @property
    def _name(self) -> int | str:
        """The port number or the path."""
        host: Any = self._host
        return os.fsdecode(host.name or "") if self.kind == "UNIX" else host.port

    def _say(self, text: str) -> None:
        """Log ``text`` as Twisted's ports do, for a factory that is noisy; a wrapper is as noisy as what it wraps."""
        factory: Any = self.factory
        while isinstance(factory, WrappingFactory):
            factory = factory.wrappedFactory
        if getattr(factory, "noisy", True):
            log.msg(text)
