"""The UDP rule: which datagrams may be answered, so that an answer is neither a weapon nor half of a loop.

The source of a datagram can be forged (CVE-2024-2169). A request that begins with the mark and is longer than its
answer is answered free of charge: it cannot amplify, and as no answer begins with the mark it cannot loop. Every
other answer is paid for in two ways. Small numbers per address and port, and per address, end a loop. Byte budgets
per address prefix and in total bound what a forged source can be sent.

A flood that uses up the total silences everybody else, so the total is shared (measured in docs/security.md). Half of
it is kept for sources that ask again: a flood of random sources does not reach it. While a half is short, an answer
counts more than once for its prefix and its network: sources that ask often pay first. What remains is a flood that
behaves like many people who each ask now and then: nothing tells it from them.

No sockets here; the clock is passed in; the tables have a fixed size.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Sequence

from greetsvc.server.sources import Hasher, prefix
from greetsvc.visit import Address
from greetsvc.wire import MARK, MAX_ANSWER, MAX_PAID_ANSWER

__all__ = [
    "ADDRESS_MOST",
    "ADDRESS_PAUSE",
    "BURST",
    "LOOP_MOST",
    "LOOP_SILENCE",
    "OVERHEAD",
    "PREFIXES_IN_TOTAL",
    "UDP_BUDGET",
    "UdpPolicy",
]

UDP_BUDGET = 1024
"""Bytes a second of UDP answers that one source prefix may get besides the free ones."""

LOOP_MOST = 8
"""Paid answers to one address and port until it was silent for `LOOP_SILENCE`."""

LOOP_SILENCE = 10.0
"""How long an address and port must be silent before it is answered again, in seconds."""

ADDRESS_MOST = 64
"""Paid answers to one address (IPv6: one /64), whatever its ports, before a pause of `ADDRESS_PAUSE`.

This ends a loop with an answerer that takes another port for each answer: what it sent last gets no answer. The many
users behind one address only have to ask again after the pause.
"""

ADDRESS_PAUSE = 1.0
"""How long an address then gets no answer, in seconds. A silence of `LOOP_SILENCE` starts its count again, too."""

OVERHEAD = 28
"""Bytes that an answer costs besides its own: the headers of IPv4 and UDP (RFC 791, RFC 768)."""

BURST = 4
"""How many seconds of its budget a prefix may spend at once."""

PREFIXES_IN_TOTAL = 64
"""The budget of all prefixes together, as a multiple of the budget of one."""

PREFIXES_IN_NETWORK = 4
"""What an IPv4 /16 or IPv6 /48 may spend while the total is short, in the same unit."""

RECENT = 32.0
"""For at least this long, in seconds, and at most twice as long a source counts as one that asked before."""

ENTRIES = 65536
"""Entries in each table of budgets. Sources that share one share its budget; see `greetsvc.server.sources`."""

LOOP_ENTRIES = 1 << 20
"""Entries in the table of addresses and ports.

An entry that sees another source every few seconds is never silent, fills up, and then refuses everybody. That takes
80,000 answers a second for 1 in 100 entries (of 65,536 entries: 5,000), more than a process can give.
"""

_RECENT_WORDS = 1 << 18
_ZEROS = array("Q", bytes(8 << 11))
_LOWEST_PORT = 1024
_MARK_AS_NUMBER = int.from_bytes(MARK, sys.byteorder)
_NO_PORT = 65536  # stands for the port of a UNIX socket, which no rule about ports forbids


class _Budgets:
    """Token buckets in bytes, one for each entry of a table of fixed size."""

    def __init__(self, now: float, rate: float, entries: int) -> None:
        self._rate = rate
        self._most = rate * BURST
        self._left = array("d", [self._most]) * entries
        self._as_of = array("d", [now]) * entries

    def left(self, index: int, now: float) -> float:
        # Comparisons instead of min() and max(), here and below: a flood calls this for each datagram.
        left, passed = self._left[index], now - self._as_of[index]
        self._as_of[index] = now
        if passed > 0:
            left += passed * self._rate
            self._left[index] = left = min(left, self._most)
        return left

    def spend(self, index: int, cost: float) -> None:
        self._left[index] -= cost


class _Total:
    """The budget of all prefixes, in two halves: 0 for sources that ask the first time, 1 for those that ask again.

    What one half earns when it is full goes to the other. A half is short when it has less than ``enough``. While
    neither is, nobody is told apart, and half 0 is for all.
    """

    def __init__(self, now: float, rate: float) -> None:
        self._rate = rate / 2
        self._most = self._rate * BURST
        self._as_of = now
        self.enough = self._most / 2
        self.left = [self._most, self._most]

    def earn(self, now: float) -> bool:
        """Bring what is left up to date; whether a half is short."""
        first, again = self.left
        passed, self._as_of = now - self._as_of, now
        if passed > 0:
            earned, most = passed * self._rate, self._most
            first += earned
            again += earned
            if first > most:
                again += first - most
                first = most
            if again > most:
                first += again - most
                again = most
                first = min(first, most)
            self.left[:] = first, again
        return first < self.enough or again < self.enough


class _Recent:
    """Which sources asked lately: two Bloom filters, of which the older one is emptied every `RECENT` seconds.

    All bits of a source are in one word of 64 (a blocked filter; Putze, Sanders and Singler, 2007), which is one
    look-up instead of four. With 20,000 new sources a second, about 1 in 200 is taken for one that asked before.
    """

    def __init__(self, now: float) -> None:
        # Ones are written, as pages of zeros would become resident only when a flood touches them.
        self._newer, self._older = (array("Q", [1]) * _RECENT_WORDS for _ in range(2))
        self._turned = now - 2 * RECENT

    def add(self, hashed: int, now: float) -> bool:
        """Remember the source with this hash (42 bits count); whether it was known already."""
        age = now - self._turned
        if age >= RECENT:
            self._newer, self._older = self._older, self._newer
            _empty(self._newer)
            if age >= 2 * RECENT:
                _empty(self._older)
            self._turned = now
        index, rest = hashed % _RECENT_WORDS, hashed // _RECENT_WORDS
        bits = 1 << (rest & 63) | 1 << (rest >> 6 & 63) | 1 << (rest >> 12 & 63) | 1 << (rest >> 18 & 63)
        word = self._newer[index]
        self._newer[index] = word | bits
        return word & bits == bits or self._older[index] & bits == bits


def _empty(words: array[int]) -> None:
    """Set all to 0, piece by piece: as many zeros at once would stay in memory as a third table."""
    view = memoryview(words)
    for start in range(0, len(words), len(_ZEROS)):
        view[start : start + len(_ZEROS)] = _ZEROS


class UdpPolicy:
    """Decides whether a request is answered, and charges for the answer at once.

    ``clock`` is monotonic, in seconds. ``budget`` is in bytes a second for each IPv4 /24 or IPv6 /56. ``own_ports``
    are the UDP ports of this service, which may be set later.
    """

    def __init__(
        self, clock: Callable[[], float], *, budget: float = UDP_BUDGET, own_ports: Collection[int] = frozenset()
    ) -> None:
        self.own_ports = own_ports
        self._clock = clock
        self._sendable: bytes | None = None
        self._hasher = Hasher(1 << 42)
        self._is_prepared = False
        self.set_budget(budget)

    def set_budget(self, budget: float) -> None:
        """Begin with a new budget, of which nothing is spent. The counts that end loops go on."""
        now, self._budget = self._clock(), budget
        self._total = _Total(now, budget * PREFIXES_IN_TOTAL)
        if self._is_prepared:
            self._prefixes = _Budgets(now, budget, ENTRIES)
            self._networks = _Budgets(now, budget * PREFIXES_IN_NETWORK, ENTRIES)

    def prepare(self) -> None:
        """Make the tables, unless they are made: 12 MB, which a service without datagrams does without.

        Otherwise the first answer that is paid for waits for them.
        """
        if self._is_prepared:
            return
        # They are indexed by a keyed hash and nothing is ever evicted: forged sources can neither grow them nor push
        # out another source, and without the key nobody can choose to share the entry of another.
        now = self._clock()
        self._count = array("B", [0]) * LOOP_ENTRIES
        self._last = array("I", [0]) * LOOP_ENTRIES  # in milliseconds, modulo 2**32
        self._run = array("B", [0]) * ENTRIES
        self._run_as_of = array("d", [now]) * ENTRIES
        self._recent = _Recent(now)
        self._is_prepared = True
        self.set_budget(self._budget)

    def never(self, port: int, *, group: bool = False) -> str | None:
        """Why a request is not answered whatever it says: ``port``, ``own-port`` or ``group``; None if it may be.

        Port 0 and the ports below 1024 belong to services, some of which answer whatever they are sent. ``group``
        says that the request was sent to a broadcast or multicast address.
        """
        if port < _LOWEST_PORT:
            return "port"
        if port in self.own_ports:
            return "own-port"
        return "group" if group else None

    def unsendable(self, answer: bytes) -> str | None:
        """Why ``answer`` may be sent to nobody: ``mark`` or ``too-long``; None if it may be sent."""
        if answer.startswith(MARK):
            return "mark"
        return "too-long" if len(answer) > MAX_ANSWER else None

    def is_free(  # noqa: PLR0917 - called for each datagram of a batch, where keywords would cost time
        self, size: int, data: bytes | bytearray, start: int, end: int, port: int, group: bool
    ) -> bool:
        """Whether an answer of ``size`` bytes to the request ``data[start:end]`` costs nothing.

        This is the only place that says so: `refusal` asks here, and `greetsvc.net.datagram.batched.BatchedPort`
        does for whole batches. The request lies in a larger buffer there, hence the offsets.
        """
        return (
            size < end - start
            and data.startswith(MARK, start, end)
            and port >= _LOWEST_PORT
            and port not in self.own_ports
            and not group
        )

    def are_free(self, size: int, shortest: int, heads: Sequence[int], ports: Collection[int]) -> bool:
        """Whether `is_free` is true of each request of a batch, none of which was sent to a group.

        :param shortest: the length of the shortest request.
        :param heads: the first 8 bytes of each, as an integer of this machine.
        :param ports: the port of each.
        """
        return (
            size < shortest
            and len(MARK) <= shortest
            and heads.count(_MARK_AS_NUMBER) == len(heads)
            and min(ports) >= _LOWEST_PORT
            and set(ports).isdisjoint(self.own_ports)
        )

    def refusal(self, request: bytes, answer: bytes, peer: Address, *, group: bool = False) -> str | None:
        """Why ``answer`` is not sent to ``peer`` (see `Address.plain`), or None. What is not free is charged.

        Besides the reasons of `never` and `unsendable`: ``loop``, ``budget``, ``total-budget``.
        """
        if answer is not self._sendable:  # as a rule the answer is one object, so this is checked once
            reason = self.unsendable(answer)
            if reason is not None:
                return reason
            self._sendable = answer
        size, port = len(answer), peer.port
        if self.is_free(size, request, 0, len(request), port, group):
            return None
        reason = self.never(port, group=group)
        if reason is not None:
            return reason
        if size > MAX_PAID_ANSWER:
            return "too-long"
        return self._charge(size + OVERHEAD, peer.host, port)

    def unix_refusal(self, request: bytes, answer: bytes, name: bytes) -> str | None:
        """Why ``answer`` is not sent to the UNIX socket called ``name`` (``loop``), or None.

        Such a name cannot be forged, but its owner can replace the socket by a link to another answerer, or to us,
        before we answer. Bytes are not scarce on one host, so they are not charged.
        """
        if self.is_free(len(answer), request, 0, len(request), _NO_PORT, group=False):
            return None
        self.prepare()
        loop = self._hasher.index(name) % LOOP_ENTRIES
        if self._loops(loop, self._clock()):
            return "loop"
        self._count[loop] += 1
        return None

    def _loops(self, entry: int, now: float) -> bool:
        """Whether the source of this entry, which has just sent something, used up its answers."""
        milliseconds = round(now * 1000) & 0xFFFFFFFF
        if milliseconds - self._last[entry] & 0xFFFFFFFF >= LOOP_SILENCE * 1000:
            self._count[entry] = 0
        self._last[entry] = milliseconds
        return self._count[entry] >= LOOP_MOST

    def _pauses(self, entry: int, now: float) -> bool:
        """Whether the address of this entry, which has just sent something, gets no answers now."""
        run = self._run[entry]
        if not run:
            return False
        silence = now - self._run_as_of[entry]
        if run > ADDRESS_MOST and silence < ADDRESS_PAUSE:
            return True  # the pause has begun with the first request that it refused
        if run > ADDRESS_MOST or silence >= LOOP_SILENCE:
            run = 0
        elif run == ADDRESS_MOST:
            run += 1
        self._run[entry] = run
        self._run_as_of[entry] = now
        return run > ADDRESS_MOST

    def _charge(self, cost: int, host: str, port: int) -> str | None:
        """Take ``cost`` bytes from what this source may be sent; why that is not possible, or None."""
        self.prepare()
        now, index = self._clock(), self._hasher.index
        address = prefix(host, 32, 128)
        loop = index(b"%b %d" % (address, port)) % LOOP_ENTRIES
        if self._loops(loop, now):
            return "loop"
        # Behind the byte for the version: a /24 is 3 bytes of an IPv4 address, a /56 is 7 of an IPv6 one.
        v4 = len(address) == 5
        hashed = index(address if v4 else address[:9])
        entry = hashed % ENTRIES
        if self._pauses(entry, now):
            return "loop"
        source = index(address[:4] if v4 else address[:8]) % ENTRIES
        left = self._prefixes.left(source, now)
        if left < cost:
            return "budget"
        total, half = self._total, 0
        price: float = cost
        if total.earn(now):
            half = self._recent.add(hashed, now)
        if total.left[half] < total.enough:
            # The less of the half is left, the more an answer counts: so among many prefixes that ask without end
            # each gets the same, and a prefix that asks rarely can pay. A prefix has at most a 32nd of `most`, so
            # it cannot pay for an answer of more than a 16th of what is left, which is never 0.
            price *= total.enough / total.left[half]
            network = index(address[:3] if v4 else address[:7]) % ENTRIES
            if left < price or self._networks.left(network, now) < price:
                return "total-budget"
            self._networks.spend(network, price)
        self._count[loop] += 1
        self._run[entry] += 1
        self._run_as_of[entry] = now
        self._prefixes.spend(source, price)
        total.left[half] -= cost
        return None
