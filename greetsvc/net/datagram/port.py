"""A datagram port that is fair to the rest of the reactor, and answers from the address that was asked.

Twisted's own port reads by bytes, so that a flood of empty datagrams holds the reactor for seconds, and on a
wildcard address it lets the kernel choose the source of an answer. This one reads a bounded number of datagrams
a turn, and on a wildcard address takes the destination of each from the kernel (``IP_PKTINFO``, ip(7);
``IPV6_RECVPKTINFO``, RFC 3542 6.1).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import Counter
from errno import errorcode
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort, IReadDescriptor
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from zope.interface import implementer

from greetsvc.net.address import SocketAddress, address_factory
from greetsvc.net.linux.packets import Arrival, ask_for_headers, read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorFDSet
    from twisted.python.failure import Failure

    from greetsvc.net.sockets import UnixPath

__all__ = ["BATCH", "IP_PKTINFO", "DatagramPort", "reason"]

_ANCILLARY = 256
BATCH = 64
"""Datagrams read in one turn of the reactor."""

DRAIN = 8
"""Batches read from a port that stops: the kernel keeps a few hundred short datagrams."""

IP_PKTINFO = 8 if sys.platform == "linux" else 0  # socket.IP_PKTINFO came with Python 3.14
_IN_PKTINFO = struct.Struct("=I4s4s")
_IN6_PKTINFO = struct.Struct("=16sI")
_WILDCARDS = ("0.0.0.0", "::")
_MAPPED = b"\0" * 10 + b"\xff\xff"


@implementer(IListeningPort, IReadDescriptor)
class DatagramPort:
    """Listens on a bound datagram socket for an ordinary `DatagramProtocol`, whose ``transport`` it is.

    While ``datagramReceived`` runs on a wildcard address (``tells_destination``), ``asked`` is the local address the
    datagram was sent to, ``group`` says that it went to a broadcast or multicast address, and ``write(datagram,
    addr)`` answers from ``asked``; it raises `OSError` where the kernel refuses, as that of Twisted's port. With
    ``headers``, ``arrival`` tells TTL and DSCP.

    ``longest`` bounds a datagram in bytes: a longer one is counted in ``dropped`` as ``oversize``, and an error that
    the kernel reports in place of one as `reason` says.
    """

    asked: str | None = None
    group = False
    tells_destination = False

    def __init__(
        self,
        sock: socket.socket,
        protocol: DatagramProtocol,
        reactor: IReactorFDSet,
        *,
        longest: int = 8192,
        path: UnixPath | None = None,
        headers: bool = False,
        dropped: Counter[str] | None = None,
    ) -> None:
        self.protocol = protocol
        self.arrival: Arrival | None = None
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self._sock = sock
        self._reactor = reactor
        self._longest = longest
        self._path = path
        self._headers = headers
        self._listening = False
        self._host = address_factory(sock.family, "UDP")(sock.getsockname())
        self._reply: list[tuple[int, int, bytes]] = []
        self.doRead = self._read
        self.write: Callable[[bytes, Any], int] = sock.sendto
        if isinstance(self._host, IPv4Address | IPv6Address):
            if headers:
                ask_for_headers(sock)
                self.doRead = self._read_with_ancillary
            if self._host.host in _WILDCARDS:
                self._ask_for_destinations()
                self.tells_destination = True
                self.doRead = self._read_with_ancillary
                self.write = self._answer_from_asked

    def _ask_for_destinations(self) -> None:
        if self._sock.family is socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if self._sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                return
        if IP_PKTINFO:
            self._sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    # IListeningPort

    def startListening(self) -> None:
        """Give the protocol its transport. Reading starts with `resumeReading`."""
        self._listening = True
        self.protocol.makeConnection(self)  # type: ignore[arg-type]  # the part of IUDPTransport that answering needs

    def stopListening(self) -> defer.Deferred[None]:
        """Stop reading, tell the protocol, close the socket and remove its file."""
        if self._listening:
            self._listening = False
            self._reactor.removeReader(self)
            self.protocol.doStop()
            self._sock.close()
            if self._path is not None:
                self._path.remove()
        return defer.succeed(None)

    def getHost(self) -> SocketAddress:
        """The address that the socket is bound to."""
        return self._host

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor of the socket; -1 once it is closed."""
        return self._sock.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log calls this port."""
        return f"{type(self.protocol).__name__} (datagram)"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave this descriptor up, as at the end of the program."""
        self.stopListening()

    def resumeReading(self) -> None:
        """Let the reactor report datagrams."""
        if self._listening:
            self._reactor.addReader(self)

    def pauseReading(self) -> None:
        """Leave datagrams in the kernel's buffer."""
        self._reactor.removeReader(self)

    def drain(self) -> None:
        """Read what has arrived by now, as far as a receive buffer usually goes."""
        for _ in range(DRAIN):
            if self._listening:
                self.doRead()

    def _read(self) -> None:
        receive, longest = self._sock.recvfrom, self._longest
        for _ in range(BATCH):
            try:
                data, peer = receive(longest + 1)
            except OSError as error:
                if self._is_over(error):
                    return
                continue
            self._deliver(data, peer)
            if not self._listening:
                return

    def _read_with_ancillary(self) -> None:
        receive, longest = self._sock.recvmsg, self._longest
        for _ in range(BATCH):
            try:
                data, ancillary, _flags, peer = receive(longest + 1, _ANCILLARY)
            except OSError as error:
                if self._is_over(error):
                    return
                continue
            if self._headers:
                self.arrival = read_header(ancillary)
            for level, kind, value in ancillary:
                self._note_destination(level, kind, value, peer)
            self._deliver(data, peer)
            self.asked, self.group = None, False
            self._reply.clear()
            if not self._listening:
                return

    def _is_over(self, error: OSError) -> bool:
        """Whether reading ends for this turn. An error of an earlier send is only counted (ip(7), udp(7))."""
        if error.errno == errno.EAGAIN:
            return True
        self.dropped[reason("receive", error)] += 1
        return False

    def _note_destination(self, level: int, kind: int, value: bytes, peer: tuple[Any, ...]) -> None:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _index, local, destination = _IN_PKTINFO.unpack_from(value)
            self.asked = socket.inet_ntop(socket.AF_INET, destination)
            self.group = local != destination
            # Only the source address is chosen: index 0 leaves the way to the routing table.
            self._reply.append((level, kind, _IN_PKTINFO.pack(0, destination, destination)))
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and not value.startswith(_MAPPED):
            destination, index = _IN6_PKTINFO.unpack_from(value)
            self.asked = socket.inet_ntop(socket.AF_INET6, destination)
            self.group = destination[0] == 0xFF
            # A link-local address means something on its own link only.
            scope = index if peer[3] else 0
            self._reply.append((level, kind, _IN6_PKTINFO.pack(destination, scope)))

    def _deliver(self, data: bytes, peer: Any) -> None:
        if len(data) > self._longest:
            self.dropped["oversize"] += 1
            return
        try:
            self.protocol.datagramReceived(data, peer)
        except BaseException:  # noqa: BLE001 - as in Twisted: one bad datagram does not end the port
            _log.failure("datagram from {peer!r}", peer=peer)

    def _answer_from_asked(self, datagram: bytes, addr: Any) -> int:
        if self._reply:
            return self._sock.sendmsg((datagram,), self._reply, 0, addr)
        return self._sock.sendto(datagram, addr)


_log = Logger()


def reason(verb: str, error: OSError) -> str:
    """What a system call's failure is counted as: ``receive-ECONNREFUSED``, ``send-EPERM``."""
    return f"{verb}-{errorcode.get(error.errno or 0, 'unknown')}"
