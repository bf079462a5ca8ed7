"""The UDP rule: which request datagram may be answered, so that an answer is neither a weapon nor half of a loop.

Sources of datagrams can be forged (CVE-2024-2169). A request that carries the mark and is longer than its answer
is free. Every other answer is paid for twice: in number, to one address and port, which ends a loop however slow it
is; and in bytes, to a prefix and in total, which bounds what a forged source can be sent. No sockets; the clock is
passed in; the tables have a fixed size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from typing import Any

from greetsvc import wire
from greetsvc.net.datagram.offer import Offer
from greetsvc.server.defaults import UDP_BUDGET
from greetsvc.server.sources import Hasher, prefix
from greetsvc.visit import Address

__all__ = ["BURST", "LOOP_MOST", "LOOP_SILENCE", "OVERHEAD", "PREFIXES_IN_TOTAL", "UdpRule"]

LOOP_MOST = 8
"""Paid answers to one address and port until it was silent."""

LOOP_SILENCE = 10.0
"""How long an address and port must be silent before it is answered again, in seconds."""

OVERHEAD = 28
"""Bytes of IPv4 and UDP headers that each answer costs besides itself (RFC 791, RFC 768)."""

BURST = 4
"""How many seconds of its budget a prefix may spend at once."""

PREFIXES_IN_TOTAL = 64
"""The budget of all prefixes together, in budgets of one."""

ENTRIES = 65536
_LOWEST_PORT = 1024


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


class UdpRule:
    """Judges requests; what it lets pass is charged at once.

    ``budget`` is in bytes a second for each IPv4 /24 or IPv6 /56; ``own_ports`` are the UDP ports of this service.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self, clock: Callable[[], float], *, budget: float = UDP_BUDGET, own_ports: Collection[int] = frozenset()
    ) -> None:
        self.own_ports = own_ports
        self._clock = clock
        self._sendable = b""
        self._hasher = Hasher(ENTRIES)
        self._count = array("B", bytes(ENTRIES))
        self._last = array("d", [clock() - LOOP_SILENCE]) * ENTRIES
        self._budgets = _Budgets(clock, budget, ENTRIES)
        self._total = _Budgets(clock, budget * PREFIXES_IN_TOTAL, 1)

    def never(self, port: int, *, group: bool = False) -> str | None:
        """Why a request is not answered whatever it says: ``port``, ``own-port`` or ``group``, or None.

        Port 0 and the well-known ports belong to services, some of which answer whatever they are sent; ``group``
        says that it was sent to a broadcast or multicast address.
        """
        if port < _LOWEST_PORT:
            return "port"
        if port in self.own_ports:
            return "own-port"
        return "group" if group else None

    def free(self, answer: bytes) -> Offer | None:
        """To whom ``answer`` may be sent and costs nothing; None while it was not found sendable."""
        return Offer(answer, wire.MARK, _LOWEST_PORT, self.own_ports) if answer is self._sendable else None

    def refusal(self, request: bytes, answer: bytes, peer: Sequence[Any], *, group: bool = False) -> str | None:
        """Why ``answer`` is not sent to ``peer`` (host and port first), or None. What is not free is charged.

        Besides what `never` says: ``mark``, ``too-long``, ``loop``, ``budget``, ``total-budget``.
        """
        port = peer[1]
        if port < _LOWEST_PORT or group or port in self.own_ports:
            return self.never(port, group=group)
        if answer is not self._sendable:
            if answer.startswith(wire.MARK):
                return "mark"
            if len(answer) > wire.MAX_ANSWER:
                return "too-long"
            self._sendable = answer
        if len(request) > len(answer) and request.startswith(wire.MARK):
            return None
        if len(answer) > wire.MAX_PAID_ANSWER:
            return "too-long"
        return self._unpaid(len(answer) + OVERHEAD, Address.plain(peer[0], port))

    def unix_refusal(self, request: bytes, answer: bytes, name: bytes) -> str | None:
        """Why ``answer`` is not sent to the UNIX socket called ``name`` (``loop``), or None.

        Such a source is no forgery, but its owner can put a link in its place that leads to another answerer, or
        back to us, by the time we answer. Bytes are not scarce there, and so are not charged.
        """
        if len(request) > len(answer) and request.startswith(wire.MARK):
            return None
        loop = self._hasher.index(name)
        if self._loops(loop):
            return "loop"
        self._count[loop] += 1
        return None

    def _loops(self, entry: int) -> bool:
        """Whether the source of this entry, heard now, had all the answers that it gets until it is silent."""
        now = self._clock()
        if now - self._last[entry] >= LOOP_SILENCE:
            self._count[entry] = 0
        self._last[entry] = now
        return self._count[entry] >= LOOP_MOST

    def _unpaid(self, cost: int, peer: Address) -> str | None:
        loop = self._hasher.index(b"%b %d" % (prefix(peer.host, 32, 128), peer.port))
        if self._loops(loop):
            return "loop"
        source = self._hasher.index(prefix(peer.host, 24, 56))
        if self._budgets.left(source) < cost:
            return "budget"
        if self._total.left(0) < cost:
            return "total-budget"
        self._count[loop] += 1
        self._budgets.spend(source, cost)
        self._total.spend(0, cost)
        return None
