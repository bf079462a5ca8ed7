"""A UDP port that reads and answers a batch of datagrams with one system call each (Linux).

It is a `DatagramPort` in all that a protocol sees. Only that an answer which is the same object as the one before
waits for the end of the batch, to go to all its receivers in one call; errors of such a call are counted, not raised.
"""

from __future__ import annotations

import errno
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from greetsvc.net.datagram.offer import IAnswersInBatches, Offer
from greetsvc.net.datagram.port import IP_PKTINFO, DatagramPort, reason
from greetsvc.net.linux.mmsg import CONTROL, NAME, Messages

if TYPE_CHECKING:
    from collections import Counter

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorFDSet
    from twisted.internet.protocol import DatagramProtocol

__all__ = ["BatchedPort"]

# Where packet info lies behind the header of its ancillary message (cmsg(3)): in_pktinfo of ip(7), and in6_pktinfo of
# RFC 3542 6.1; and how many bytes of ancillary data that makes.
_HEADER = struct.calcsize("Nii")
_V4_INDEX, _V4_LOCAL, _V4_DESTINATION, _V4_END = _HEADER, _HEADER + 4, _HEADER + 8, _HEADER + 12
_V6_DESTINATION, _V6_INDEX, _V6_END = _HEADER, _HEADER + 16, _HEADER + 20
_NO_INDEX = bytes(4)

_NOTHING = Offer(bytes(65536), b"", 0, ())
"""Longer than any request."""

_log = Logger()

_V4_NAME = struct.Struct("!2xH4s")
_V6_NAME = struct.Struct("!2xHI16s")
# The C library prints the four numbers; to find a text that was made before takes a third of that.
_v4_host = lru_cache(maxsize=1024)(socket.inet_ntoa)
_SCOPE = struct.Struct("=I")


class BatchedPort(DatagramPort):
    """As `DatagramPort`, for a UDP socket of one family, and without header fields."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: DatagramProtocol,
        reactor: IReactorFDSet,
        *,
        longest: int = 8192,
        dropped: Counter[str] | None = None,
    ) -> None:
        super().__init__(sock, protocol, reactor, longest=longest, dropped=dropped)
        self._is_v6 = sock.family == socket.AF_INET6
        # Not by what a wrapper passes on to the protocol within: that would bypass the wrapper.
        self._answers: Any = protocol if IAnswersInBatches.implementedBy(type(protocol)) else None
        info = _V6_END if self._is_v6 else _V4_END
        self._messages = Messages(
            sock,
            longest,
            name_length=28 if self._is_v6 else 16,
            answer_control=socket.CMSG_SPACE(info - _HEADER) if self.tells_destination else 0,
        )
        self._current = 0
        self._peer: Any = None
        self._answer: bytes | None = None
        self._latest: bytes | None = None
        # Answers wait from the one number to before the other.
        self._first = 0
        self._next = 0
        self.doRead = self._read_batch
        self.write = self._write

    def stopListening(self) -> Deferred[None]:
        """As in `DatagramPort`, once the answers that wait are sent."""
        if self._listening:
            self._flush()
            self._peer = None  # who is answered after this is answered by a socket that says that it is closed
        return super().stopListening()

    def _read_batch(self) -> None:
        if self._peer is not None:
            return  # a protocol has us read while it is handed a datagram: the others of the batch come first
        offer = self._offer()
        try:
            count = self._messages.receive()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self.dropped[reason("receive", error)] += 1
            return
        try:
            answered = self._take(count, offer)
        finally:
            self._peer = None
        self._flush()
        self._tell(answered)

    def _offer(self) -> Offer:
        """What is answered without calling the protocol."""
        try:
            if self._answers is None or self._answers.transport is not self:
                return _NOTHING
            return self._answers.in_batches() or _NOTHING
        except Exception:  # noqa: BLE001 - as where it fails over a datagram
            _log.failure("The protocol could not say what it answers in batches")
            return _NOTHING

    def _take(self, count: int, offer: Offer) -> list[Any]:
        """Answer the datagrams of a batch, or hand them to the protocol; the peers that were answered so."""
        messages = self._messages
        data, view, names, lengths, stride = (
            messages.data,
            messages.view,
            messages.names,
            messages.lengths,
            messages.stride,
        )
        sender, v4_name, v4_host = self._v6_sender if self._is_v6 else None, _V4_NAME.unpack_from, _v4_host
        answer, mark, lowest_port, own_ports = offer.answer, offer.mark, offer.lowest_port, offer.own_ports
        least, longest, tells_destination = len(answer), self._longest, self.tells_destination
        answered = []
        peer: Any
        for i in range(count):
            self._current = i
            if sender is None:
                port, host = v4_name(names, i * NAME)
                self._peer = peer = (v4_host(host), port)
            else:
                self._peer = peer = sender(i)
            size = lengths[i]
            start = i * stride
            end = start + size
            if (
                least < size <= longest
                and answer is self._answer  # the protocol has given it twice by then
                and data.startswith(mark, start, end)
                and peer[1] >= lowest_port
                and peer[1] not in own_ports
                and not (tells_destination and self.group)
            ):
                if tells_destination:
                    self._choose_source(peer)
                self._add()
                answered.append(peer)
                continue
            self._deliver(view[start:end].tobytes(), peer)
            if not self._listening:
                break
        return answered

    def _tell(self, answered: list[Any]) -> None:
        if answered:
            try:
                self._answers.answered(answered)
            except Exception:  # noqa: BLE001 - the port goes on
                _log.failure("Datagrams are answered, but their protocol failed")

    def _v6_sender(self, i: int) -> tuple[str, int, int, int]:
        port, flow, host = _V6_NAME.unpack_from(self._messages.names, i * NAME)
        (scope,) = _SCOPE.unpack_from(self._messages.names, i * NAME + 24)
        return socket.inet_ntop(socket.AF_INET6, host), port, flow, scope

    # Where the current datagram was sent to

    @property
    def asked(self) -> str | None:  # type: ignore[override]  # it is read only when somebody asks
        """See `DatagramPort`."""
        if self._peer is None or not self.tells_destination:
            return None
        if self._is_v6:
            return socket.inet_ntop(socket.AF_INET6, self._info(_V6_DESTINATION, _V6_INDEX))
        return socket.inet_ntoa(self._info(_V4_DESTINATION, _V4_END))

    @property
    def group(self) -> bool:  # type: ignore[override]
        """See `DatagramPort`."""
        if self._peer is None or not self.tells_destination:
            return False
        if self._is_v6:
            return self._messages.controls[self._current * CONTROL + _V6_DESTINATION] == 0xFF
        return self._info(_V4_LOCAL, _V4_DESTINATION) != self._info(_V4_DESTINATION, _V4_END)

    def _info(self, start: int, end: int) -> bytearray:
        at = self._current * CONTROL
        return self._messages.controls[at + start : at + end]

    # Answering

    def _write(self, datagram: bytes, addr: Any) -> int:
        if addr is not self._peer:
            return self._sock.sendto(datagram, addr)
        if self.tells_destination:
            self._choose_source(addr)
        if datagram is not self._answer:
            self._flush()
            if datagram is not self._latest:
                self._latest = datagram
                return self._answer_now(datagram, addr)
            self._messages.answer_with(datagram)
            self._answer = datagram
        self._add()
        return len(datagram)

    def _add(self) -> None:
        """Have the answer sent to who sent the current datagram too."""
        if self._current != self._next:
            self._flush()
            self._first = self._current
        self._next = self._current + 1

    def _choose_source(self, addr: tuple[Any, ...]) -> None:
        """Make the ancillary data of the current datagram into that of its answer.

        Only the source address is chosen, and the way left to the routing table; but a link-local address means
        something on its own link only.
        """
        if self._is_v6 and addr[3]:
            return
        at = self._current * CONTROL + (_V6_INDEX if self._is_v6 else _V4_INDEX)
        self._messages.controls[at : at + 4] = _NO_INDEX

    def _answer_now(self, datagram: bytes, addr: Any) -> int:
        if not self.tells_destination:
            return self._sock.sendto(datagram, addr)
        if self._is_v6:
            info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(self._info(_HEADER, _V6_END)))
        else:
            info = (socket.IPPROTO_IP, IP_PKTINFO, bytes(self._info(_HEADER, _V4_END)))
        return self._sock.sendmsg((datagram,), (info,), 0, addr)

    def _flush(self) -> None:
        """Send the answers that wait."""
        while self._first < self._next:
            try:
                self._first += self._messages.send(self._first, self._next - self._first)
            except OSError as error:
                self.dropped[reason("send", error)] += 1
                self._first += 1
