"""One request with a chosen TTL, and whoever answers it: a router on the way, the target, or this host.

Without privilege (Linux): IP_RECVERR queues the ICMP messages of routers, for a UDP socket and for a TCP socket that
connects.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc import wire
from greetsvc.client.evidence.icmp import icmp_of
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.sockets import prepare
from greetsvc.client.probe.system import own_host
from greetsvc.client.route.hops import Reply, is_transit
from greetsvc.client.words import SELF_CONNECTED
from greetsvc.net.linux import error_queue
from greetsvc.visit import Address

__all__ = ["AskReactor", "Asker", "set_ttl", "something_happens"]

_REFUSED = frozenset([errno.ECONNREFUSED, errno.ECONNRESET])
_IN_PROGRESS = frozenset([0, errno.EINPROGRESS])


class AskReactor(IReactorTime, IReactorFDSet):
    """What a request needs of a reactor."""


@implementer(IReadWriteDescriptor)
class _Watched:
    """A socket that is watched until something happens to it: data, a connection, or an error."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.happened: Deferred[None] = Deferred()

    def fileno(self) -> int:
        return self._sock.fileno()

    def logPrefix(self) -> str:
        return "greet"

    def doRead(self) -> None:
        if not self.happened.called:
            self.happened.callback(None)

    doWrite = doRead

    def connectionLost(self, reason: Failure) -> None:
        self.doRead()


async def something_happens(
    sock: socket.socket, seconds: float, reactor: AskReactor, *, connecting: bool = False
) -> None:
    """Wait for data or an error on a socket (``connecting``: for a connection too), at most ``seconds``."""
    watched = _Watched(sock)
    timer = reactor.callLater(seconds, watched.doRead)
    reactor.addReader(watched)
    if connecting:
        reactor.addWriter(watched)
    try:
        await watched.happened
    finally:
        reactor.removeReader(watched)
        reactor.removeWriter(watched)
        if timer.active():
            timer.cancel()


def set_ttl(sock: socket.socket, ttl: int) -> None:
    """Have the packets of a socket live for this many hops."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        with suppress(OSError):  # what goes to an IPv4-mapped address has the options of IPv4
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)


@frozen
class Asker:
    """Asks the target of one flow: a SYN or a datagram from the one source port of ``options``.

    All requests of a flow have the same addresses and ports, so that routers with several links send them the same
    way. Two sockets cannot share those, so only one request is in flight at a time.
    """

    remote: SocketAddress
    options: ProbeOptions
    datagram: bool
    reactor: AskReactor
    now: Callable[[], float]
    session: str = field(factory=lambda: os.urandom(8).hex())
    """Of the measured answers that datagrams want: one says which request it answers, a greeting does not."""

    async def ask(self, ttl: int | None, patience: float) -> Reply | None:
        """Send one request, which lives for ``ttl`` hops (None: the system's), and wait for an answer.

        :raises OSError: when this host could not send it.
        """
        with socket.socket(self.remote.family, socket.SOCK_DGRAM if self.datagram else socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            prepare(sock, self.options)
            error_queue.turn_on(sock)
            if ttl is not None:
                set_ttl(sock, ttl)
            request = self._request(ttl or 0) if self.datagram else b""
            sent = self.now()
            if not self.datagram:
                # The side that closes first keeps its port in TIME_WAIT, where the next request needs it.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                number = sock.connect_ex(self.remote.sockaddr)
                if number not in _IN_PROGRESS:
                    return self._failed(number, self.now() - sent)
            else:
                sock.sendto(request, self.remote.sockaddr)
            while (left := sent + patience - self.now()) > 0:
                await something_happens(sock, left, self.reactor, connecting=not self.datagram)
                if reply := self._read(sock, request, sent):
                    return reply
        return None

    def _read(self, sock: socket.socket, request: bytes, sent: float) -> Reply | None:
        """The reply that has come, if any."""
        took = self.now() - sent
        target = str(self.remote.sockaddr[0])
        for error in error_queue.read(sock, min(len(request), wire.MARKED_MINIMUM)):
            if error.errno == errno.EMSGSIZE:
                continue
            icmp = icmp_of(error, target, own_host(sock, self.remote.sockaddr))
            if icmp is None:
                raise OSError(error.errno, os.strerror(error.errno))
            # What quotes another request came late, for an earlier hop. Any other message than "TTL exceeded" is
            # about the path as a whole.
            if request.startswith(error.quoted) or not is_transit(icmp):
                return Reply(icmp.address, took, icmp)
        return self._read_datagram(sock, request, took) if self.datagram else self._read_stream(sock, took)

    def _request(self, ttl: int) -> bytes:
        fields = {"s": self.session, "n": ttl, "a": 0, "w": "count"}
        return wire.request(os.urandom(8).hex(), self.options.size, fields)

    def _read_datagram(self, sock: socket.socket, request: bytes, took: float) -> Reply | None:
        try:
            data, sender = sock.recvfrom(wire.MAX_ANSWER)
        except OSError:  # nothing is there, or the error of a message that was passed over
            return None
        measured = wire.decode_measured(data)
        late = measured is not None and measured.nonce != wire.nonce_of(request)
        same = tuple(sender[:2]) == tuple(self.remote.sockaddr[:2])
        return Reply(Address.plain(sender[0]).host, took) if same and not late else None

    def _read_stream(self, sock: socket.socket, took: float) -> Reply | None:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            return self._failed(number, took)
        try:
            there = sock.getpeername()
        except OSError:
            return None
        if there == sock.getsockname():
            return Reply(self._host, took, error=SELF_CONNECTED)
        return Reply(self._host, took)

    def _failed(self, number: int, took: float) -> Reply:
        """The reply when connecting ended with this errno, and no ICMP message did it."""
        if number in _REFUSED:
            return Reply(self._host, took, error=f"{os.strerror(number)}: a reset in its name")
        raise OSError(number, os.strerror(number))

    @property
    def _host(self) -> str:
        return Address.plain(self.remote.address.host).host
