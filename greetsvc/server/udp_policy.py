"""The UDP rule: which datagrams may be answered, so that an answer is neither a weapon nor half of a loop.

The source of a datagram can be forged (CVE-2024-2169). A request that begins with the mark and is longer than its
answer is answered free of charge: it cannot amplify, and as no answer begins with the mark it cannot loop. Every
other answer is paid for in two ways: from a small number per address and port, which ends a loop, and from byte
budgets per address prefix and in total, which bound what a forged source can be sent.

No sockets here; the clock is passed in; the tables have a fixed size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection

from greetsvc.server.sources import Hasher, prefix
from greetsvc.visit import Address
from greetsvc.wire import MARK, MAX_ANSWER, MAX_PAID_ANSWER

__all__ = ["BURST", "LOOP_MOST", "LOOP_SILENCE", "OVERHEAD", "PREFIXES_IN_TOTAL", "UDP_BUDGET", "UdpPolicy"]

UDP_BUDGET = 1024
"""Bytes a second of UDP answers that one source prefix may get besides the free ones."""

LOOP_MOST = 8
"""Paid answers to one address and port until it was silent for `LOOP_SILENCE`."""

LOOP_SILENCE = 10.0
"""How long an address and port must be silent before it is answered again, in seconds."""

OVERHEAD = 28
"""Bytes that an answer costs besides its own: the headers of IPv4 and UDP (RFC 791, RFC 768)."""

BURST = 4
"""How many seconds of its budget a prefix may spend at once."""

PREFIXES_IN_TOTAL = 64
"""The budget of all prefixes together, as a multiple of the budget of one."""

ENTRIES = 65536
"""Entries in each table. Sources that share one share its budget; see `greetsvc.server.sources`."""

_LOWEST_PORT = 1024
_NO_PORT = 65536  # stands for the port of a UNIX socket, which no rule about ports forbids


class _Budgets:
    """Token buckets in bytes, one for each entry of a table of fixed size."""

    def __init__(self, clock: Callable[[], float], rate: float, entries: int) -> None:
        self._clock = clock
        self._rate = rate
        self._left = array("d", [rate * BURST]) * entries
        self._as_of = array("d", [clock()]) * entries

    def left(self, index: int) -> float:
        now = self._clock()
        earned = max(0.0, now - self._as_of[index]) * self._rate
        self._as_of[index] = now
        self._left[index] = left = min(self._left[index] + earned, self._rate * BURST)
        return left

    def spend(self, index: int, cost: float) -> None:
        self._left[index] -= cost


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
        self._hasher = Hasher(ENTRIES)
        # The tables are indexed by a keyed hash and nothing is ever evicted: forged sources can neither grow them nor
        # push out another source, and without the key nobody can choose to share the entry of another.
        self._count = array("B", bytes(ENTRIES))
        self._last = array("d", [clock() - LOOP_SILENCE]) * ENTRIES
        self._budgets = _Budgets(clock, budget, ENTRIES)
        self._total = _Budgets(clock, budget * PREFIXES_IN_TOTAL, 1)

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
        loop = self._hasher.index(name)
        if self._loops(loop):
            return "loop"
        self._count[loop] += 1
        return None

    def _loops(self, entry: int) -> bool:
        """Whether the source of this entry, which has just sent something, used up its answers."""
        now = self._clock()
        if now - self._last[entry] >= LOOP_SILENCE:
            self._count[entry] = 0
        self._last[entry] = now
        return self._count[entry] >= LOOP_MOST

    def _charge(self, cost: int, host: str, port: int) -> str | None:
        """Take ``cost`` bytes from what this source may be sent; why that is not possible, or None."""
        address = prefix(host, 32, 128)
        loop = self._hasher.index(b"%b %d" % (address, port))
        if self._loops(loop):
            return "loop"
        # Behind the byte for the version: a /24 is 3 bytes of an IPv4 address, a /56 is 7 of an IPv6 one.
        source = self._hasher.index(address[:4] if len(address) == 5 else address[:8])
        if self._budgets.left(source) < cost:
            return "budget"
        if self._total.left(0) < cost:
            return "total-budget"
        self._count[loop] += 1
        self._budgets.spend(source, cost)
        self._total.spend(0, cost)
        return None
