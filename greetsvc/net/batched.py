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

from greetsvc.net.datagram import IP_PKTINFO, DatagramPort, reason
from greetsvc.net.mmsg import CONTROL, NAME, Messages

if TYPE_CHECKING:
    from collections import Counter

    from twisted.internet.interfaces import IReactorFDSet
    from twisted.internet.protocol import DatagramProtocol

__all__ = ["BatchedPort"]

# Where packet info lies behind the header of its ancillary message (cmsg(3)): in_pktinfo of ip(7), and in6_pktinfo of
# RFC 3542 6.1; and how many bytes of ancillary data that makes.
_HEADER = struct.calcsize("Nii")
_V4_INDEX, _V4_LOCAL, _V4_DESTINATION, _V4_END = _HEADER, _HEADER + 4, _HEADER + 8, _HEADER + 12
_V6_DESTINATION, _V6_INDEX, _V6_END = _HEADER, _HEADER + 16, _HEADER + 20
_NO_INDEX = bytes(4)

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

    def _read_batch(self) -> None:
        messages = self._messages
        try:
            count = messages.receive()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self.dropped[reason("receive", error)] += 1
            return
        data, stride, lengths, names = messages.data, messages.stride, messages.lengths, messages.names
        sender, v4_name, v4_host = self._v6_sender if self._is_v6 else None, _V4_NAME.unpack_from, _v4_host
        received, longest = self.protocol.datagramReceived, self._longest
        peer: Any
        for i in range(count):
            size = lengths[i]
            if size > longest:
                self.dropped["oversize"] += 1
                continue
            self._current = i
            if sender is None:
                port, host = v4_name(names, i * NAME)
                self._peer = peer = (v4_host(host), port)
            else:
                self._peer = peer = sender(i)
            start = i * stride
            try:
                received(data[start : start + size].tobytes(), peer)
            except Exception:  # noqa: BLE001 - as Twisted does: one bad datagram does not end the port
                _log.failure("datagram from {peer!r}", peer=peer)
            if not self._listening:
                break
        self._peer = None
        if self._listening:
            self._flush()

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
        if self._current != self._next:
            self._flush()
            self._first = self._current
        self._next = self._current + 1
        return len(datagram)

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
