"""A UDP port that reads and answers a batch of datagrams with one system call each (Linux).

For the protocol it is a `DatagramPort`, with one difference: an answer that is the same object as the one before it
waits for the end of the batch, and then goes to all its receivers in one call. The kernel's errors of such a call are
reported to ``dropped`` (``send-EPERM``) instead of being raised by ``write``.
"""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from greetsvc.net.datagram.port import IP_PKTINFO, BatchAnswers, DatagramPort, FreeAnswer
from greetsvc.net.linux.mmsg import CONTROL, MESSAGES, NAME, OWN, Messages
from greetsvc.net.linux.packets import Arrival
from greetsvc.net.linux.time_stamps import ANCILLARY
from greetsvc.net.sockets import reason

__all__ = ["BatchedPort"]

# What lies in a datagram's ancillary data, in the order in which Linux writes it (net/ipv4/udp.c and ip_sockglue.c,
# net/ipv6/datagram.c): the time stamp, the packet info, TTL, traffic class, of which only those are there that were
# asked for. Each is behind the header of a message (struct cmsghdr, cmsg(3)). The packet info is in_pktinfo of ip(7)
# or in6_pktinfo of RFC 3542 6.1; these are offsets from its header.
_HEADER = struct.calcsize("Nii")
_V4_INDEX, _V4_LOCAL, _V4_DESTINATION, _V4_END = _HEADER, _HEADER + 4, _HEADER + 8, _HEADER + 12
_V6_DESTINATION, _V6_INDEX, _V6_END = _HEADER, _HEADER + 16, _HEADER + 20
_NO_INDEX = bytes(4)

_MANY = 4
"""Datagrams of a batch from which it pays to ask first whether one answer is that to all."""

_FULL = 4
"""Full batches that are read in one turn of the reactor if each was answered without the protocol: 0.3 ms each."""

_ALONE = 16
"""After so many batches of one in a row, as many datagrams are read one by one before a batch is tried again."""

_SOON = 50e-6
"""Seconds in which a fast peer sends its next datagram."""

_LOOKS = 3
"""Reads that find nothing before the port gives back the turn: about 1 µs each."""

_Ancillary: TypeAlias = "list[tuple[int, int, bytes]]"

_OWN = b"each its own"  # stands for the answer where each request has its own; told by its identity

# struct sockaddr_in and sockaddr_in6 without the family, each as long as an entry of `Messages.names`: port, address;
# port, flow, address, scope. All in network byte order but the scope, which is an interface index.
_V4_NAME = struct.Struct(f"!2xH4s{NAME - 8}x")
_V6_NAME = struct.Struct("!2xHI16s4s")
_V4_LOCALS = struct.Struct("4s4s")  # ipi_spec_dst and ipi_addr
_CONTROL_HEADER = struct.Struct("Nii")
_MULTICAST = 0xFF  # the first byte of an IPv6 multicast address (RFC 4291 2.7)

# Most datagrams of a batch come from few hosts: looking up the text takes a third of the time of making it anew.
_v4_host = lru_cache(maxsize=1024)(socket.inet_ntoa)

_log = Logger()


def _v4_peer(name: tuple[int, bytes]) -> tuple[str, int]:
    return _v4_host(name[1]), name[0]


def _v6_peer(name: tuple[int, int, bytes, bytes]) -> tuple[str, int, int, int]:
    port, flow, host, scope = name
    return socket.inet_ntop(socket.AF_INET6, host), port, flow, int.from_bytes(scope, sys.byteorder)


class _Peers(Sequence[Any]):
    """The peers at these places of a batch. Mostly they are only counted, so each is made when somebody looks at it.

    That can be done until the next batch is read. ``form`` reads an entry of ``names``, which is that of `Messages`.
    """

    def __init__(
        self, places: Sequence[int], form: struct.Struct, names: bytearray, peer_of: Callable[[Any], tuple[Any, ...]]
    ) -> None:
        self._places = places
        self._form = form
        self._names = names
        self._peer_of = peer_of

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        return self._peer_of(self._form.unpack_from(self._names, self._places[at] * NAME))


def _facts(info: int, v6: bool) -> struct.Struct:
    """Reads time stamp (seconds, nanoseconds), TTL and traffic class; ``info`` is the space of the packet info."""
    skipped = socket.CMSG_SPACE(4) - socket.CMSG_LEN(4)
    return struct.Struct(f"@{_HEADER}xll{info + _HEADER}xi{skipped + _HEADER}x{'i' if v6 else 'B'}")


class BatchedPort(DatagramPort):
    """As `DatagramPort`, for a UDP socket of one family.

    ``batches`` says which requests are answered without calling the protocol; None to call it for each.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: DatagramProtocol,
        reactor: IReactorFDSet,
        *,
        longest: int = 8192,
        headers: bool = False,
        dropped: Callable[[str], object] | None = None,
        batches: BatchAnswers | None = None,
    ) -> None:
        super().__init__(sock, protocol, reactor, longest=longest, headers=headers, dropped=dropped)
        self._is_v6 = sock.family == socket.AF_INET6
        self._peer_of: Callable[[Any], tuple[Any, ...]] = _v6_peer if self._is_v6 else _v4_peer
        self._batches = batches
        self._names, index, end = (_V6_NAME, _V6_INDEX, _V6_END) if self._is_v6 else (_V4_NAME, _V4_INDEX, _V4_END)
        control = socket.CMSG_SPACE(end - _HEADER) if self.tells_destination else 0
        self._info_at = ANCILLARY if headers else 0
        self._index, self._end = self._info_at + index, end
        self._facts = _facts(control, self._is_v6).unpack_from
        self._messages = Messages(
            sock,
            longest,
            name_length=28 if self._is_v6 else 16,
            control_start=self._info_at,
            answer_control=control,
        )
        self._first_buffer = [self._messages.view[: longest + 1]]
        self._ones = 0  # batches of one in a row
        self._alone = 0  # datagrams to read one by one before a batch is tried again
        self._latest_alone = 0.0  # when the latest of these was read
        self._is_alone = False  # whether the present one was read so
        self._current = 0
        self._peer: Any = None
        self._answer: bytes | None = None
        self._latest: bytes | None = None
        # Answers to the datagrams from the one index to before the other wait to be sent: always one run, of the same
        # answer or of answers of their own.
        self._first = 0
        self._next = 0
        self._send = self._messages.send
        self.doRead = self._read_batch
        self.write = self._write

    def stopListening(self) -> Deferred[None]:
        """As in `DatagramPort`, once the waiting answers are sent."""
        self._flush()
        self._peer = None  # so that a later write goes to the closed socket, which raises
        return super().stopListening()

    def drain(self) -> None:
        """As in `DatagramPort`. In batches: datagrams that came alone so far may be many now."""
        if self._listening:
            self.doRead = self._read_batch
        super().drain()

    def _read_batch(self) -> None:
        if self._peer is not None:
            return  # the protocol called drain() while it is handed a datagram: the rest of this batch comes first
        for _ in range(_FULL):
            if not (self._read_one_batch() and self._listening):
                return

    def _read_one_batch(self) -> bool:
        """Read and answer a batch; whether it was full and cost little, so that another one may follow at once."""
        try:
            count = self._messages.receive()
        except OSError as error:
            self._nothing_left(error)
            return False
        self._ones = self._ones + 1 if count == 1 else 0
        if self._ones >= _ALONE:
            self._alone, self.doRead = _ALONE, self._read_alone
        free = self._free_answer()
        shortest = self._shortest_covered(count, free) if free is not None and count >= _MANY else 0
        if free is not None and shortest > free.own_at and self._all_plain(count, free):
            self._answer_all(count, free.answer)
            return count == MESSAGES
        try:
            answered = self._take(count, free, covered=shortest > 0)
        finally:
            self._peer = None
        self._flush()
        if answered:
            self._count_peers(answered)
        return len(answered) == MESSAGES

    def _shortest_covered(self, count: int, free: FreeAnswer) -> int:
        """The length of the shortest datagram of this batch if all are covered, else 0: one question for all."""
        messages = self._messages
        if free.covers_all is None or self.tells_destination:
            return 0
        lengths = messages.lengths[:count].tolist()
        if max(lengths) > self._longest:
            return 0
        ports = array("H", messages.ports[:count].tobytes())
        if sys.byteorder == "little":
            ports.byteswap()
        shortest: int = min(lengths)
        heads = messages.heads[:count].tolist()
        return shortest if free.covers_all(len(free.answer), shortest, heads, ports) else 0

    def _all_plain(self, count: int, free: FreeAnswer) -> bool:
        """Whether no datagram of this batch may get an answer of its own."""
        if free.own is None:
            return True
        messages = self._messages
        kinds = messages.view[free.own_at :: messages.stride][:count].tolist()
        return kinds.count(free.plain) == count

    def _answer_all(self, count: int, answer: bytes) -> None:
        """Answer every datagram of this batch."""
        if answer is not self._answer:
            self._use(answer)
        self._first, self._next = 0, count
        self._flush()
        self._count_peers(range(count))

    def _read_alone(self) -> None:
        """Read and answer with the calls of Python's socket: for a datagram that comes alone, these take less time.

        As a rule it is one in a turn. A peer that sends the next request at once is waited for, a few microseconds:
        to sleep and to be woken takes both ends much longer.
        """
        if self._peer is not None:
            return  # as above
        now = perf_counter()
        looks = _LOOKS if now - self._latest_alone < _SOON else 0
        while self._alone and (self._read_one() or any(self._read_one() for _ in range(looks))):
            self._alone -= 1
            if not looks:
                break
        if self._listening and not self._alone:
            self.doRead = self._read_batch
        self._latest_alone = perf_counter() if looks else now

    def _read_one(self) -> bool:
        """Whether there was a datagram, and the port goes on."""
        if not self._listening:
            return False
        try:
            length, ancillary, _flags, peer = self._sock.recvmsg_into(self._first_buffer, CONTROL)
        except OSError as error:
            return not self._nothing_left(error)
        free, self._current = self._free_answer(), 0
        said = self._said(free, length, ancillary, peer) if free is not None and length <= self._longest else None
        if said is None:
            self._put(ancillary)
            self._peer, self._is_alone = peer, True
            try:
                self._deliver(self._messages.view[:length].tobytes(), peer)
            finally:
                self._peer, self._is_alone = None, False
            return self._listening
        try:
            self._answer_now(said, peer)
        except OSError as error:
            self._drop(reason("send", error))
        self._count((peer,))
        return self._listening

    def _said(self, free: FreeAnswer, length: int, ancillary: _Ancillary, peer: tuple[Any, ...]) -> bytes | None:
        """The free answer to the datagram that came alone; None to call the protocol."""
        data, group = self._messages.data, False
        if self.tells_destination:
            self._put(ancillary)
            group = self._is_group(0)
        if not free.covers(len(free.answer), data, 0, length, peer[1], group):
            return None
        if self.tells_destination:
            self._hide_index(peer)
        if free.own is None or data[free.own_at] == free.plain:
            return free.answer
        self._put(ancillary)
        seconds, nanoseconds, ttl, tos = self._facts(self._messages.controls, 0)
        return free.own(data, 0, length, seconds * 1_000_000_000 + nanoseconds, ttl, tos)

    def _put(self, ancillary: _Ancillary) -> None:
        """Write the ancillary data of the datagram that came alone to where that of a batch lies."""
        controls, at = self._messages.controls, 0
        for level, kind, value in ancillary:
            _CONTROL_HEADER.pack_into(controls, at, socket.CMSG_LEN(len(value)), level, kind)
            controls[at + _HEADER : at + _HEADER + len(value)] = value
            at += socket.CMSG_SPACE(len(value))

    def _count_peers(self, places: Sequence[int]) -> None:
        self._count(_Peers(places, self._names, self._messages.names, self._peer_of))

    def _count(self, peers: Sequence[tuple[Any, ...]]) -> None:
        try:
            self._batches.answered(peers)  # type: ignore[union-attr]  # where it is None, nothing is answered so
        except Exception:  # noqa: BLE001 - the port goes on
            _log.failure("The datagrams are answered, but the protocol failed to count them")

    def _free_answer(self) -> FreeAnswer | None:
        if self._batches is None:
            return None
        try:
            return self._batches.free_answer()
        except Exception:  # noqa: BLE001 - the port goes on, and the protocol is called for each datagram
            _log.failure("The protocol failed to name its free answer")
            return None

    def _take(self, count: int, free: FreeAnswer | None, *, covered: bool) -> list[int]:
        """Answer each datagram of a batch, or hand it to the protocol; returns the places of the answered ones.

        With ``covered`` the free answer is known to cover each.

        The time of a free answer is spent in this loop, so it calls few functions of Python and looks things up once.
        """
        messages, longest, tells_destination = self._messages, self._longest, self.tells_destination
        data, view, controls, stride = messages.data, messages.view, messages.controls, messages.stride
        own_data, own_lengths, facts = messages.own, messages.own_lengths, self._facts
        v6, peer_of = self._is_v6, self._peer_of
        answer, covers, own, own_at, plain, _ = free or FreeAnswer(b"", None)  # type: ignore[arg-type]
        size, group, start = len(answer), False, -stride
        answered: list[int] = []
        lengths, names = messages.lengths[:count].tolist(), self._names.iter_unpack(messages.names)
        for i, (length, name) in enumerate(zip(lengths, names, strict=False)):
            start += stride
            end = start + length
            if covers is not None and length <= longest:
                if tells_destination:
                    group = self._is_group(i)
                if covered or covers(size, data, start, end, name[0], group):
                    said: bytes | None = answer
                    if own is not None and data[start + own_at] != plain:
                        seconds, nanoseconds, ttl, tos = facts(controls, i * CONTROL)
                        said = own(data, start, end, seconds * 1_000_000_000 + nanoseconds, ttl, tos)
                        if said is not None:
                            at, own_length = i * OWN, len(said)
                            own_data[at : at + own_length] = said
                            own_lengths[i] = own_length
                            said = _OWN
                    if said is not None:
                        if said is not self._answer:
                            self._flush()
                            self._use(said)
                        if tells_destination and not (v6 and name[3] != _NO_INDEX):
                            at = i * CONTROL + self._index
                            controls[at : at + 4] = _NO_INDEX
                        if i != self._next:
                            self._flush()
                            self._first = i
                        self._next = i + 1
                        answered.append(i)
                        continue
            self._current, self._peer = i, peer_of(name)
            self._deliver(view[start:end].tobytes(), self._peer)
            if not self._listening:
                break
        return answered

    # The datagram that the protocol is handed

    @property
    def asked(self) -> str | None:  # type: ignore[override]  # made only when it is read
        """See `DatagramPort`."""
        if self._peer is None or not self.tells_destination:
            return None
        if self._is_v6:
            return socket.inet_ntop(socket.AF_INET6, self._info(_V6_DESTINATION, _V6_INDEX))
        return socket.inet_ntoa(self._info(_V4_DESTINATION, _V4_END))

    @property
    def group(self) -> bool:  # type: ignore[override]
        """See `DatagramPort`."""
        return self._peer is not None and self.tells_destination and self._is_group(self._current)

    def _is_group(self, i: int) -> bool:
        """Whether the datagram was sent to a broadcast or multicast address: see `DatagramPort._note_destination`."""
        at = i * CONTROL + self._info_at
        if self._is_v6:
            return self._messages.controls[at + _V6_DESTINATION] == _MULTICAST
        local, destination = _V4_LOCALS.unpack_from(self._messages.controls, at + _V4_LOCAL)
        return bool(local != destination)

    @property
    def arrival(self) -> Arrival | None:  # type: ignore[override]
        """See `DatagramPort`."""
        if self._peer is None or not self._headers:
            return None
        seconds, nanoseconds, ttl, tos = self._facts(self._messages.controls, self._current * CONTROL)
        return Arrival(ttl, tos >> 2, tos & 3, seconds * 1_000_000_000 + nanoseconds)

    def _info(self, start: int, end: int) -> bytearray:
        at = self._current * CONTROL + self._info_at
        return self._messages.controls[at + start : at + end]

    # Answering

    def _write(self, datagram: bytes, addr: Any) -> int:
        if addr is not self._peer:
            return self._sock.sendto(datagram, addr)
        i = self._current
        if self.tells_destination:
            self._hide_index(addr)
        if self._is_alone:
            return self._answer_now(datagram, addr)
        if datagram is not self._answer:
            self._flush()
            # One that differs each time would only be prepared for a batch of one.
            if datagram is not self._latest:
                self._latest = datagram
                return self._answer_now(datagram, addr)
            self._use(datagram)
        if i != self._next:
            self._flush()
            self._first = i
        self._next = i + 1
        return len(datagram)

    def _hide_index(self, addr: tuple[Any, ...]) -> None:
        """The ancillary data becomes that of the answer: see `DatagramPort._note_destination`."""
        if not (self._is_v6 and addr[3]):
            at = self._current * CONTROL + self._index
            self._messages.controls[at : at + 4] = _NO_INDEX

    def write_whole(self, datagram: bytes, addr: Any) -> int:
        """See `DatagramPort`. The answers that wait may be fragmented: they go first."""
        self._flush()
        return super().write_whole(datagram, addr)

    def _use(self, answer: bytes) -> None:
        """Send ``answer`` from now on, or with `_OWN` to each its own; nothing waits to be sent."""
        messages = self._messages
        self._send = messages.send_own if answer is _OWN else messages.send
        if answer is not _OWN:
            messages.answer_with(answer)
        self._answer = answer

    def _answer_now(self, datagram: bytes, addr: Any) -> int:
        if not self.tells_destination:
            return self._sock.sendto(datagram, addr)
        kind = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) if self._is_v6 else (socket.IPPROTO_IP, IP_PKTINFO)
        return self._sock.sendmsg((datagram,), ((*kind, self._info(_HEADER, self._end)),), 0, addr)

    def _flush(self) -> None:
        """Send the answers that wait."""
        while self._first < self._next:
            try:
                self._first += self._send(self._first, self._next - self._first)
            except OSError as error:
                # sendmmsg(2) fails only for the first message of a call: drop this one, go on with the next.
                self._drop(reason("send", error))
                self._first += 1
