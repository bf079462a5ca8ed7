"""The stream listener: one class for TCP, UNIX and inherited sockets, over a socket that is already listening.

It accepts in bounded batches, so that datagrams and timers have their turns, and it outlives whatever `accept` can
report. Binding (`greetsvc.net.bind`), starting and reading are three steps, because a service binds before it
forks and gives up its privileges, and may register with the reactor only afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, ILoggingContext, IReadDescriptor
from twisted.logger import Logger
from twisted.python.reflect import qual
from zope.interface import implementer

from greetsvc.net.transport import StreamTransport, UnixStreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory
    from twisted.python.failure import Failure

    from greetsvc.net.bind import UnixPath
    from greetsvc.net.linger import Lingerers

__all__ = ["BATCH", "StreamPort"]

_log = Logger()

BATCH = 64
"""Connections accepted in one turn of the reactor."""

DRAIN = 4096
"""Connections accepted from the queue of a listener that stops: as long as the queue usually can be."""

PAUSE = 0.05
"""Seconds for which nothing is accepted when the system has no descriptors or memory left."""

_QUIET = 1.0
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
    Without ``lingerers`` closing is what it is in Twisted.
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
        self.accepted = 0
        self.refused = 0
        self.address_of = _ADDRESSES[sock.family]
        self._sock = sock
        self._path = path
        self._transport = UnixStreamTransport if sock.family == socket.AF_UNIX else StreamTransport
        self._host = self.address_of(sock.getsockname())
        self._prefix = qual(factory.__class__)
        self._reading = False  # asked for
        self._began = False
        self._pause: IDelayedCall | None = None
        self._spare: int | None = None
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
        self._reserve()
        self.factory.doStart()

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
        self._accept(DRAIN)

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def logPrefix(self) -> str:
        """What is put before messages logged while a connection is made."""
        return self._prefix

    def doRead(self) -> None:
        """Accept a batch."""
        self._accept(BATCH)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self._close()

    # How it is done

    def _accept(self, most: int) -> None:
        accept = self._sock._accept  # type: ignore[attr-defined]
        for _ in range(most):
            try:
                fd, name = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _PASSING:
                    self._run_short(error)
                    return
                self.refused += 1
                continue
            self._welcome(fd, name)
            if not self._reading:
                return

    def _welcome(self, fd: int, name: Any) -> None:
        """Make a connection of an accepted descriptor. Raises nothing."""
        sock = socket.socket(self._sock.family, socket.SOCK_STREAM, 0, fd)
        self.accepted = number = self.accepted + 1
        try:
            peer = self.address_of(name)
            protocol = self.factory.buildProtocol(peer)
        except BaseException:  # noqa: BLE001 - as in Twisted: it ends this connection, not the listener
            _log.failure("No protocol could be built")
            protocol = None
        if protocol is None:
            sock.close()
        else:
            self._transport(sock, peer, number, self).start(protocol)

    def _run_short(self, error: OSError) -> None:
        """Descriptors or memory have run out.

        As in Twisted, a descriptor held in reserve is used to turn away who waits. Without one they wait.
        """
        turned_away = 0
        if error.errno == errno.EMFILE and self._spare is not None:
            turned_away = self._turn_away(self._spare)
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

    def _turn_away(self, spare: int) -> int:
        """Use the place of the spare descriptor to accept and close a batch; the number of those."""
        os.close(spare)
        count = 0
        with suppress(OSError):
            while count < BATCH:
                os.close(self._sock._accept()[0])  # type: ignore[attr-defined]
                count += 1
        self._reserve()
        return count

    def _reserve(self) -> None:
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._spare = None

    def _wait(self) -> None:
        if self._pause is None and self.listening:
            self.reactor.removeReader(self)
            self._pause = self.reactor.callLater(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._spare is None:
            self._reserve()
        if self._reading:
            self.reactor.addReader(self)

    def _close(self) -> None:
        self.pauseReading()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        self._sock.close()
        if self._path is not None:
            try:
                self._path.remove()
            except OSError as error:
                _log.warn("{path} is left behind: {error}", path=self._path.path, error=error.strerror)
        if self.listening:
            self.listening = False
            self.factory.doStop()


def _ipv4(name: tuple[str, int]) -> IPv4Address:
    return IPv4Address("TCP", *name)


def _ipv6(name: tuple[str, int, int, int]) -> IPv6Address:
    if name[3]:
        # Python leaves the scope out of the host, and Twisted has it there.
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        return IPv6Address("TCP", host, *name[1:])
    return IPv6Address("TCP", *name)


def _unix(name: str | bytes | None) -> UNIXAddress:
    return UNIXAddress(name or None)


_ADDRESSES: dict[int, Callable[[Any], IAddress]] = {
    socket.AF_INET: _ipv4,
    socket.AF_INET6: _ipv6,
    socket.AF_UNIX: _unix,
}
