"""Find the largest packets that pass, there with requests of that size, and back with answers that are padded to it.

Requests have DF set, without privilege: ``IP_PMTUDISC_PROBE`` sends what fits our own link, whatever the kernel knows
of the path. An answer is shorter than its request, or it would amplify. So the way back can be tried up to the size
of the way there, and further where a request passes in fragments.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable

from attrs import define, field

from greetsvc import wire
from greetsvc.client.evidence.icmp import icmp_of
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.sockets import prepare
from greetsvc.client.probe.system import own_host, system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.route.ask import AskReactor, something_happens
from greetsvc.client.route.mtu import Mtu, SizeSearch, TooLong, Way
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.fragments import fragment, keep_whole
from greetsvc.visit import Address

__all__ = ["find_mtu"]

_FIRST_V4, _FIRST_V6 = 576, 1280
"""IP packets that have to pass: what every host takes (RFC 791 3.1), what every link takes (RFC 8200 5)."""

_SHORTEST_ANSWER = 256
"""The IP packet with the shortest padded answer: longer than a measured answer alone."""

_TRIES = 2
_FIRST_TRIES = 3
_LONGEST, _SHORTEST, _RTTS = 1.0, 0.2, 3.0
"""Seconds to wait for an answer: three times the longest round trip so far, within these bounds."""


class _OutOfTime(Exception):
    """The time-out of the whole search has passed."""


@define
class _Prober:
    """Sends requests, each from a socket of its own, and reads what comes."""

    remote: SocketAddress
    timeline: Timeline
    reactor: AskReactor
    session: str = field(factory=lambda: os.urandom(8).hex())
    sent: int = 0
    slowest: float | None = None
    """The longest round trip so far, in seconds."""

    @property
    def v6(self) -> bool:
        """Whether the packets are IPv6; those to an IPv4-mapped address are not."""
        return self.remote.family == socket.AF_INET6 and ":" in Address.plain(str(self.remote.sockaddr[0])).host

    @property
    def headers(self) -> int:
        """Bytes of the IP and UDP headers, without options."""
        return 48 if self.v6 else 28

    async def ask(self, packet: int, *, padded: int = 0, fragments: int = 0, tries: int = _TRIES) -> bytes | TooLong:
        """The answer to a request in an IP packet of this size, or why it did not pass.

        :param padded: the size of the IP packet that the answer is to be in; 0: whatever it is.
        :param fragments: 0: the request may not be fragmented. Else it may, and IPv6 packets are cut to this size.
        :raises GreetFailed: when ICMP or this host says that no request can be answered.
        """
        for _ in range(tries):
            found = await self._ask_once(packet, padded, fragments)
            if found is not None:
                return found
        return TooLong()

    async def _ask_once(self, packet: int, padded: int, fragments: int) -> bytes | TooLong | None:
        now = self.timeline.now
        patience = min(_LONGEST, max(_SHORTEST, _RTTS * (self.slowest or _LONGEST)), self.timeline.remaining())
        if not patience:
            raise _OutOfTime
        with socket.socket(self.remote.family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            prepare(sock, self.timeline.options)
            error_queue.turn_on(sock)
            if fragments:
                fragment(sock, fragments)
            else:
                keep_whole(sock)
            nonce = os.urandom(8).hex()
            fields: dict[str, object] = {"s": self.session, "n": self.sent, "a": 0, "w": "count"}
            fields |= {"p": padded - self.headers} if padded else {}
            self.sent += 1
            began = now()
            try:
                sock.sendto(wire.request(nonce, packet - self.headers, fields), self.remote.sockaddr)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
            while True:
                if (found := self._read(sock, nonce)) is not None:
                    if isinstance(found, bytes):
                        self.slowest = max(self.slowest or 0.0, now() - began)
                    return found
                if (left := began + patience - now()) <= 0:
                    return None
                await something_happens(sock, left, self.reactor)

    def _read(self, sock: socket.socket, nonce: str) -> bytes | TooLong | None:
        """What came: an answer to this request, or that it was too long.

        :raises GreetFailed: for any other ICMP message, and what this host reports.
        """
        for error in error_queue.read(sock):
            icmp = icmp_of(error, self.remote.sockaddr[0], own_host(sock, self.remote.sockaddr))
            if error.errno == errno.EMSGSIZE:
                return TooLong(error.mtu, icmp.address if icmp and icmp.sender != "this host" else None)
            raise system_failed(self.timeline, error.errno, icmp)
        try:
            data, sender = sock.recvfrom(65535)
        except OSError:  # nothing is there
            return None
        measured = _measured(data)
        ours = tuple(sender[:2]) == tuple(self.remote.sockaddr[:2]) and (measured is None or measured.nonce == nonce)
        return data if ours else None


async def find_mtu(remote: SocketAddress, timeline: Timeline, reactor: AskReactor) -> Mtu:
    """Find the largest IP packets that pass to a UDP service and back; within the time-out of ``timeline``.

    :raises GreetFailed: when it answers nothing.
    """
    prober = _Prober(remote, timeline, reactor)
    timeline.peer = remote.address
    timeline.enter("greet")
    first = _FIRST_V6 if prober.v6 else _FIRST_V4
    try:
        answer = await prober.ask(first, tries=_FIRST_TRIES)
    except _OutOfTime:
        answer = TooLong()
    if isinstance(answer, TooLong):
        asked = "1 request" if prober.sent == 1 else f"{prober.sent} requests"
        raise timeline.failed(errno.ETIMEDOUT, f"no answer to {asked} in packets of {first} bytes {timeline.within}")
    search = SizeSearch(first, wire.MAX_REQUEST + prober.headers)
    in_time = await _search("there", search, timeline, prober.ask)
    reads_all = _measured(answer) is not None
    there = _there(search, in_time=in_time, reads_all=reads_all)
    reason = search.reason
    icmp_from = None if reason is None else reason.by
    silent = reason is not None and reason.mtu is None
    black_hole = None if not in_time or (silent and not reads_all) else silent
    link = next((why.mtu for why in search.failures.values() if why.mtu and not why.by), None)
    back = await _back(prober, search.least, link) if in_time else Way(words=_TIME)
    return Mtu(there, back, icmp_from, black_hole)


_TIME = "the time-out (-t) ended the search"
_LIMIT = "the server does not read longer requests"
_UNCLEAR = (
    "longer ones get no answer: a black hole, or this service does not read longer requests; its answers do not tell"
)


async def _search(
    name: str, search: SizeSearch, timeline: Timeline, ask: Callable[[int], Awaitable[bytes | TooLong]]
) -> bool:
    """Run a search to its end; False when the time was over before."""
    try:
        while (size := search.next()) is not None:
            found = await ask(size)
            timeline.trace(
                "*", f"{name}: {size} bytes {'lost or too long' if isinstance(found, TooLong) else 'passed'}"
            )
            if isinstance(found, TooLong):
                search.fails(size, found)
            else:
                search.passes(size)
    except _OutOfTime:
        return False
    return True


def _measured(answer: bytes) -> wire.Measured | None:
    """The measured answer, without what it is padded with; None for a greeting.

    What gives measured answers reads requests of any size that is tried here. Another service may read shorter ones
    only, and then it says no more about the path.
    """
    return wire.decode_measured(answer.rstrip(b" "))


def _there(search: SizeSearch, *, in_time: bool, reads_all: bool) -> Way:
    reason = search.reason
    if not in_time:
        return Way(search.least, _TIME, "least")
    if reason is None:
        return Way(search.least, _LIMIT, "least")
    if reason.by is not None:
        return Way(search.least, f"{reason.by} reports that longer ones need to be fragmented")
    if reason.mtu is not None:
        return Way(search.least, "our own link takes no more")
    if not reads_all:
        return Way(search.least, _UNCLEAR, "least")
    return Way(search.least, "longer ones are lost, and no ICMP message says so: a black hole")


async def _back(prober: _Prober, there: int, link: int | None) -> Way:
    """The way back; ``there`` is what passes on the way there, ``link`` what our own link takes, if known."""
    try:
        return await _find_back(prober, there, link)
    except _OutOfTime:
        return Way(words=_TIME)


async def _find_back(prober: _Prober, there: int, link: int | None) -> Way:
    least, longest = _SHORTEST_ANSWER, wire.MAX_REQUEST - 1 + prober.headers

    async def ask(answer: int) -> bytes | TooLong:
        """Ask for an answer of this size, in a request that is a byte longer."""
        request = answer + 1
        if request > there and prober.v6:
            request = most + 1  # Linux sends whole what our own link takes
        found = await prober.ask(request, padded=answer, fragments=there if request > there else 0)
        wrong = isinstance(found, bytes) and len(found) + prober.headers != answer
        return TooLong() if wrong else found

    most = min(longest, link or longest)
    answer = await prober.ask(there, padded=least, tries=_FIRST_TRIES)
    if isinstance(answer, TooLong):
        return Way(words="requests for padded answers get none")
    if len(answer) + prober.headers != least:
        return Way(words="the server does not pad its answers: it is an older one, or does not measure")
    if isinstance(await prober.ask(most + 1, padded=least, fragments=there, tries=_FIRST_TRIES), TooLong):
        most = there - 1  # no fragments pass
    search = SizeSearch(least, most)
    if not await _search("back", search, prober.timeline, ask):
        return Way(search.least, _TIME, "least")
    if search.failures:
        return Way(search.least, "longer ones are lost")
    if most == link:
        return Way(search.least, "our own link takes no more")
    why = _LIMIT if most == longest else "a longer answer needs a longer request, which does not pass"
    return Way(search.least, why, "least")
