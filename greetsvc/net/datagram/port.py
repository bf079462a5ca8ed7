"""A datagram port that is fair to the rest of the reactor, and answers from the address the request was sent to.

Twisted's own UDP port stops reading after a number of bytes, so a flood of empty datagrams blocks the reactor for
seconds (measured: 2 to 3.5 s). It also lets the kernel choose the source address of an answer: on a wildcard address
that may be another one than the client sent to, and a connected client then drops the answer. `DatagramPort` reads a
bounded number of datagrams per reactor turn, and on a wildcard address asks the kernel for the destination of each
(``IP_PKTINFO``, ip(7); ``IPV6_RECVPKTINFO``, RFC 3542 6.1).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple, Protocol

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort, IReactorFDSet, IReadDescriptor
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.address import SocketAddress, address_factory
from greetsvc.net.linux import fragments
from greetsvc.net.linux.fragments import kept_whole
from greetsvc.net.linux.packets import Arrival, ask_for_headers, read_header
from greetsvc.net.sockets import UnixPath, reason

__all__ = ["BATCH", "IP_PKTINFO", "BatchAnswers", "Covers", "CoversAll", "DatagramPort", "FreeAnswer", "Own"]

BATCH = 64
"""Datagrams read in one reactor turn."""

DRAIN = 8
"""Batches read by `DatagramPort.drain`: a receive buffer of the usual size holds a few hundred short datagrams."""

IP_PKTINFO = 8 if sys.platform == "linux" else 0  # socket.IP_PKTINFO came with Python 3.14
_ANCILLARY = 256  # bytes: room for the packet info and the header fields of both families
_IN_PKTINFO = struct.Struct("=I4s4s")  # struct in_pktinfo (ip(7)): interface index, ipi_spec_dst, ipi_addr
_IN6_PKTINFO = struct.Struct("=16sI")  # struct in6_pktinfo (RFC 3542 6.1): address, interface index
_MAPPED = b"\0" * 10 + b"\xff\xff"

_log = Logger()

CoversAll = Callable[[int, int, Sequence[int], Collection[int]], bool]
Covers = Callable[[int, bytes | bytearray, int, int, int, bool], bool]
Own = Callable[[bytearray, int, int, int, int, int], bytes | None]


class FreeAnswer(NamedTuple):
    """One answer, and which requests get it without a call of the protocol.

    ``covers(len(answer), data, start, end, port, group)`` decides: the request is ``data[start:end]``, it came from
    ``port``, and ``group`` says that it was sent to a broadcast or multicast address. It must have no side effect.

    A request that it covers, and whose byte at ``own_at`` is not ``plain``, may get an answer of its own:
    ``own(data, start, end, time, ttl, tos)``, of at most `greetsvc.net.linux.mmsg.OWN` bytes; where it returns None,
    the protocol is called. ``time`` is when the kernel received the request, in nanoseconds (CLOCK_REALTIME).

    ``covers_all(len(answer), shortest, heads, ports)`` decides at once for a batch of requests to one address: the
    length of the shortest, the first 8 bytes of each as an integer of this machine, and their ports. It must be false
    where ``covers`` is for any of them.
    """

    answer: bytes
    covers: Covers
    own: Own | None = None
    own_at: int = 0
    plain: int = 0
    covers_all: CoversAll | None = None


class BatchAnswers(Protocol):
    """Says what `greetsvc.net.datagram.batched.BatchedPort` may answer without calling ``datagramReceived``."""

    def free_answer(self) -> FreeAnswer | None:
        """The answer for the batch that was just read; None to have the protocol called for every datagram."""
        ...

    def answered(self, peers: Sequence[tuple[Any, ...]]) -> None:
        """The answer was handed to the kernel for these peers, each a tuple that begins with host and port."""
        ...


@implementer(IListeningPort, IReadDescriptor)
class DatagramPort:
    """Receives datagrams on a bound socket for any Twisted `DatagramProtocol`, and is the protocol's ``transport``.

    ``sock`` is bound and non-blocking (`greetsvc.net.sockets` makes such sockets); the port owns it. ``longest`` is
    the length in bytes of the longest datagram that is accepted. ``path`` is the file of a UNIX socket, removed when
    the port stops. ``dropped`` is called with a reason for each datagram that did not reach the protocol:
    ``oversize`` where it was too long, or ``receive-`` and the name of the error that the kernel reported instead
    (``receive-ECONNREFUSED``). With ``headers`` the TTL, DSCP, ECN and arrival time of each datagram are read.

    While ``datagramReceived`` runs, these attributes describe the datagram:

    - ``asked``: the local address it was sent to, where the socket is bound to a wildcard, broadcast or multicast
      address (``tells_destination`` is true); else None.
    - ``group``: whether it was sent to a broadcast or multicast address. Known where ``asked`` is.
    - ``arrival``: its TTL, DSCP, ECN and time, with ``headers``; else None.

    ``keeps_whole`` is true where the system offers `write_whole`.

    ``write(datagram, addr)`` called meanwhile answers from ``asked``. It raises `OSError` where the kernel refuses,
    as that of Twisted's port does.
    """

    asked: str | None = None
    group = False
    arrival: Arrival | None = None
    tells_destination = False
    keeps_whole = False

    def __init__(
        self,
        sock: socket.socket,
        protocol: DatagramProtocol,
        reactor: IReactorFDSet,
        *,
        longest: int = 8192,
        path: UnixPath | None = None,
        headers: bool = False,
        dropped: Callable[[str], object] | None = None,
    ) -> None:
        self.protocol = protocol
        self._prefix = f"{type(protocol).__name__} (datagram)"
        self._dropped = dropped
        self._sock = sock
        self._reactor = reactor
        self._longest = longest
        self._path = path
        self._headers = headers
        self._listening = False
        self._host = address_factory(sock.family, "UDP")(sock.getsockname())
        self._reply: list[tuple[int, int, bytes]] = []
        # The methods are chosen once, here, so that no datagram pays for what its socket does not need.
        self.doRead = self._read
        self.write: Callable[[bytes, Any], int] = sock.sendto
        if isinstance(self._host, IPv4Address | IPv6Address):
            self.keeps_whole = fragments.AVAILABLE
            ask_for_headers(sock, wanted=headers)  # an inherited socket may still deliver them
            if headers:
                self.doRead = self._read_with_ancillary
            if not _is_one_host(sock, self._host.host):
                self._ask_for_destinations()
                self.tells_destination = True
                self.doRead = self._read_with_ancillary
                self.write = self._answer_from_asked

    def write_whole(self, datagram: bytes, addr: Any) -> int:
        """As ``write``, and the packet is not fragmented: it is lost where it is too long for the path.

        :raises OSError: also when it is too long for our own link (EMSGSIZE).
        """
        with kept_whole(self._sock):
            return self.write(datagram, addr)

    def _ask_for_destinations(self) -> None:
        if self._sock.family is socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if self._sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                return
        # A dual-stack socket needs both: for IPv4 datagrams Linux then delivers both kinds of packet info.
        if IP_PKTINFO:
            self._sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    # IListeningPort

    def startListening(self) -> None:
        """Make this port the protocol's transport, and let the reactor report datagrams.

        The socket is bound already: what arrived before waits in its receive buffer.
        """
        if not self._listening:
            # First the reactor, which raises for a socket that is closed by now.
            self._reactor.addReader(self)
            self._listening = True
            try:
                self.protocol.makeConnection(self)  # type: ignore[arg-type]  # the part of IUDPTransport answers need
            except BaseException:
                self._listening = False
                self._reactor.removeReader(self)
                raise

    def stopListening(self) -> defer.Deferred[None]:
        """Stop reading, tell the protocol, close the socket and remove its file; also where it was never started."""
        if self._listening:
            self._listening = False
            self._reactor.removeReader(self)
            self.protocol.doStop()
        self._sock.close()
        # Without these cycles the buffers of a port (half a megabyte) are freed now, not at some later collection.
        self.doRead, self.write = _nothing, self._sock.sendto
        if self._path is not None:
            self._path.remove()
        return defer.succeed(None)

    def leave_path(self) -> None:
        """Leave the file of a UNIX socket where it is at the end: another process goes on with the socket."""
        self._path = None

    def release(self) -> None:
        """Stop, and leave the file and what has arrived to another port with a duplicate of the socket."""
        self._path = None
        self.stopListening()

    def getHost(self) -> SocketAddress:
        """The address that the socket is bound to."""
        return self._host

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor of the socket; -1 once it is closed."""
        return self._sock.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log calls this port."""
        return self._prefix

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave up this descriptor, as it does when the program ends."""
        self.stopListening()

    def drain(self) -> None:
        """Read what has arrived so far, up to `DRAIN` batches, so that a service that stops still answers it."""
        for _ in range(DRAIN):
            if self._listening:
                self.doRead()

    def _read(self) -> None:
        receive, longest = self._sock.recvfrom, self._longest
        for _ in range(BATCH):
            try:
                # One byte more than is allowed: the kernel cuts a longer datagram without saying so.
                data, peer = receive(longest + 1)
            except OSError as error:
                if self._nothing_left(error):
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
                if self._nothing_left(error):
                    return
                continue
            if self._headers:
                self.arrival = read_header(ancillary)
            for level, kind, value in ancillary:
                self._note_destination(level, kind, value, peer)
            self._deliver(data, peer)
            self.asked, self.group, self.arrival = None, False, None
            self._reply.clear()
            if not self._listening:
                return

    def _nothing_left(self, error: OSError) -> bool:
        """Whether there is nothing more to read. Other errors are those of earlier answers (ip(7), udp(7)): drops."""
        if error.errno == errno.EAGAIN:
            return True
        self._drop(reason("receive", error))
        return False

    def _note_destination(self, level: int, kind: int, value: bytes, peer: tuple[Any, ...]) -> None:
        """Set ``asked`` and ``group``, and prepare the packet info that makes an answer leave from ``asked``."""
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _index, local, destination = _IN_PKTINFO.unpack_from(value)
            self.asked = socket.inet_ntop(socket.AF_INET, destination)
            # ipi_addr is the destination in the header, ipi_spec_dst the local address for an answer. They differ for
            # broadcast and multicast: an answer cannot leave from such an address.
            self.group = local != destination
            # Index 0 chooses the source address only. With the index of the interface the answer would have to leave
            # there, though the route to the client may lead elsewhere.
            self._reply.append((level, kind, _IN_PKTINFO.pack(0, destination, destination)))
        # On a dual-stack socket an IPv4 datagram also carries an IPv6 packet info with a mapped address. It is no
        # valid source for the answer, which goes out as IPv4.
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and not value.startswith(_MAPPED):
            destination, index = _IN6_PKTINFO.unpack_from(value)
            self.asked = socket.inet_ntop(socket.AF_INET6, destination)
            self.group = destination[0] == 0xFF  # ff00::/8 is multicast (RFC 4291 2.7); IPv6 has no broadcast
            # A link-local address (its peer has a scope) is unique on its link only, so there the index is kept.
            scope = index if peer[3] else 0
            self._reply.append((level, kind, _IN6_PKTINFO.pack(destination, scope)))

    def _deliver(self, data: bytes, peer: Any) -> None:
        if len(data) > self._longest:
            self._drop("oversize")
            return
        try:
            self.protocol.datagramReceived(data, peer)
        except BaseException:  # noqa: BLE001 - as in Twisted: one bad datagram does not end the port
            _log.failure("The protocol failed on a datagram from {peer!r}", peer=peer)

    def _drop(self, reason: str) -> None:
        if self._dropped is not None:
            try:
                self._dropped(reason)
            except Exception:  # noqa: BLE001 - the port goes on
                _log.failure("The drop callback raised")

    def _answer_from_asked(self, datagram: bytes, addr: Any) -> int:
        if self._reply:
            return self._sock.sendmsg((datagram,), self._reply, 0, addr)
        return self._sock.sendto(datagram, addr)


def _nothing() -> None:
    """What a closed port reads."""


def _is_one_host(sock: socket.socket, host: str) -> bool:
    """Whether ``host``, the address the socket is bound to, is no wildcard, broadcast or multicast address."""
    address = ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address  # ::ffff:0.0.0.0 is a wildcard too
    if address.is_unspecified or address.is_multicast:
        return False
    with socket.socket(sock.family, socket.SOCK_DGRAM) as scout:
        try:
            scout.connect((host, 9))  # sends nothing
        except OSError as error:
            # Which addresses are broadcast only the kernel knows: it wants SO_BROADCAST for them (socket(7)).
            return error.errno != errno.EACCES
    return True
