"""The daemon's datagram protocol: it answers what the plain one answers, and free requests in batches."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, cast

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFDSet

from greetsvc import wire
from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.net.datagram.port import IP_PKTINFO, DatagramPort
from greetsvc.net.linux.mmsg import AVAILABLE, CONTROL, MESSAGES, NAME
from greetsvc.server.datagram import GreetingDatagramProtocol
from greetsvc.server.fast_datagram import FastGreetingDatagramProtocol
from greetsvc.server.sessions import Sessions
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import Address

FDS = cast(IReactorFDSet, reactor)
PEER = ("192.0.2.7", 40000)
MARKED = wire.request("0123456789abcdef", 1200)
OWN_PORT = 8088
LONGEST = 1300

needs_mmsg = pytest.mark.skipif(not AVAILABLE, reason="recvmmsg is Linux's")


def test_it_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="subclass GreetingDatagramProtocol"):
        type("Own", (FastGreetingDatagramProtocol,), {})


def _heard(greeting: str, request: bytes = b"") -> FastGreetingDatagramProtocol:
    """One that has received a datagram."""
    protocol = FastGreetingDatagramProtocol(
        TextGreeter(greeting), policy=UdpPolicy(lambda: 0.0, own_ports={OWN_PORT})
    )
    protocol.makeConnection(cast(Any, Kernel([])))
    protocol.datagramReceived(request, PEER)
    return protocol


def test_the_free_answer_is_the_one_greeting_once_it_was_made() -> None:
    protocol = FastGreetingDatagramProtocol(TextGreeter("Hi"))
    assert protocol.free_answer() is None
    protocol = _heard("Hi")
    free = protocol.free_answer()
    assert free is not None
    assert free.answer == b"Hi"
    assert free.covers(2, MARKED, 0, 1200, 40000, False)
    assert not free.covers(2, MARKED, 0, 1200, OWN_PORT, False)
    protocol.answered([PEER, ("192.0.2.8", 40001)])
    assert protocol.ledger.greeted == {"udp": 3}


@pytest.mark.parametrize("greeting", ["{peer_host}", wire.MARK.decode(), "x" * (wire.MAX_ANSWER + 1)])
def test_there_is_no_free_answer_where_each_visit_has_its_own_or_it_may_not_be_sent(greeting: str) -> None:
    assert _heard(greeting, MARKED).free_answer() is None


def test_visits_of_a_batch_are_seen_one_by_one() -> None:
    protocol = _heard("Hi")
    seen: list[tuple[int, str, Address]] = []
    protocol.ledger.watchers.append(lambda transport, peer: seen.append((protocol.ledger.visits, transport, peer)))
    protocol.answered([PEER, ("::ffff:192.0.2.8", 40001, 0, 0)])
    assert seen == [(2, "udp", Address(*PEER)), (3, "udp", Address("192.0.2.8", 40001))]


# Both ports over a kernel of the test: the plain protocol on the plain port, the fast one on the batched port.


class Datagram(NamedTuple):
    """One that arrives."""

    data: bytes
    host: str
    port: int
    local: str
    destination: str

    @property
    def name(self) -> tuple[str, int]:
        """The source, as a socket has it."""
        return self.host, self.port


@define
class Kernel:
    """A socket on every IPv4 address: what arrives, and what was sent to whom from where."""

    arriving: list[Datagram]
    sent: list[tuple[bytes, tuple[str, int], str]] = field(factory=list)
    family = socket.AF_INET
    group = False

    def write(self, datagram: bytes, addr: Any) -> int:
        return len(datagram)

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", OWN_PORT

    def setsockopt(self, *_: int) -> None:
        """Everything is allowed."""

    def sendto(self, datagram: bytes, addr: Any) -> int:
        raise AssertionError("an answer must leave from the address the request was sent to")

    def recvmsg(self, size: int, _room: int) -> Any:
        if not self.arriving:
            raise BlockingIOError(11, "nothing there")
        one = self.arriving.pop(0)
        info = struct.pack("=I", 7) + socket.inet_aton(one.local) + socket.inet_aton(one.destination)
        return one.data[:size], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, one.name

    def sendmsg(self, parts: tuple[bytes], infos: Any, _flags: int, name: Any) -> int:
        (info,) = infos
        assert info[:2] == (socket.IPPROTO_IP, IP_PKTINFO)
        self.sent.append((parts[0], name, self._source(info[2])))
        return len(parts[0])

    @staticmethod
    def _source(info: bytes) -> str:
        assert info[:4] == bytes(4), "the route is left to the routing table"
        return socket.inet_ntoa(info[8:12])


@define
class BatchKernel(Kernel):
    """The same for recvmmsg and sendmmsg, in the buffers of the port."""

    messages: Any = None
    fileno = staticmethod(lambda: -1)

    def take_over(self, messages: Any) -> None:
        """Be the kernel of these messages."""
        self.messages, messages.receive, messages.send = messages, self.receive, self.send

    def recvmsg_into(self, buffers: list[memoryview], _room: int) -> Any:
        """For one that comes alone."""
        data, *rest = self.recvmsg(len(buffers[0]), _room)
        buffers[0][: len(data)] = data
        return len(data), *rest

    def receive(self) -> int:
        messages = self.messages
        batch, self.arriving = self.arriving[:MESSAGES], self.arriving[MESSAGES:]
        for i, one in enumerate(batch):
            data = one.data[: messages.stride]
            messages.data[i * messages.stride : i * messages.stride + len(data)] = data
            messages.lengths[i] = len(data)
            name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", one.port) + socket.inet_aton(one.host)
            messages.names[i * NAME : i * NAME + len(name)] = name
            control = struct.pack("Nii", 28, socket.IPPROTO_IP, IP_PKTINFO) + struct.pack("=I", 7)
            control += socket.inet_aton(one.local) + socket.inet_aton(one.destination)
            messages.controls[i * CONTROL : i * CONTROL + len(control)] = control
        return len(batch)

    def send(self, first: int, count: int) -> int:
        for i in range(first, first + count):
            name = bytes(self.messages.names[i * NAME : (i + 1) * NAME])
            peer = socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")
            control = bytes(self.messages.controls[i * CONTROL + 16 : i * CONTROL + 28])
            self.sent.append((self.messages._answer, peer, self._source(control)))
        return count


def _answers(
    kind: str, greeting: str, batches: list[list[Datagram]], budget: float = 1024
) -> tuple[list[Any], Ledger]:
    """What one of the two sends, and counts."""
    policy = UdpPolicy(lambda: 0.0, own_ports={OWN_PORT}, budget=budget)
    policy._hasher._key = b"the same for both"
    ledger, greeter = Ledger(), TextGreeter(greeting)
    kernel: Kernel
    port: DatagramPort
    protocol: GreetingDatagramProtocol
    if kind == "plain":
        kernel = Kernel([])
        protocol = GreetingDatagramProtocol(greeter, policy=policy, ledger=ledger)
        port = DatagramPort(cast(Any, kernel), protocol, FDS, longest=LONGEST, dropped=ledger.refuse)
    else:
        from greetsvc.net.datagram.batched import BatchedPort

        kernel = in_batches = BatchKernel([])
        protocol = fast = FastGreetingDatagramProtocol(greeter, policy=policy, ledger=ledger)
        options: Any = {"longest": LONGEST, "dropped": ledger.refuse, "batches": fast}
        port = batched = BatchedPort(cast(Any, kernel), protocol, FDS, **options)
        in_batches.take_over(batched._messages)
    port._listening = True  # as startListening does, but for the reactor
    protocol.makeConnection(cast(Any, port))
    # The first request has the greeting made: from the second batch on it may be free.
    for batch in [[Datagram(b"", "203.0.113.1", 40000, "127.0.0.1", "127.0.0.1")], *batches]:
        kernel.arriving = list(batch)
        while kernel.arriving:
            port.doRead()
    return kernel.sent, ledger


GREETINGS = st.sampled_from(["Hello there", "x" * 513, "", "GREET/1 hello", "{peer_port} is your port"])
PORTS = st.sampled_from([40000, 40001, 1024, 65535, 0, 1023, OWN_PORT]) | st.integers(0, 65535)
HOSTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "198.51.100.1"])
MARKS = st.sampled_from([wire.MARK] * 4 + [wire.MARK[:-1], b"", b"greet/1 ", b"GREET/2 "])
ONE = ("127.0.0.1", "127.0.0.1")
LOCALS = st.sampled_from([ONE, ONE, ("10.0.0.1", "10.0.0.255"), ("10.0.0.1", "224.0.0.1")])


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[str, list[list[Datagram]]]:
    """A greeting, and batches of requests of every kind, most of them around the bounds that matter."""
    greeting = draw(GREETINGS)
    edges = [len(greeting) + 1, len(greeting), max(len(greeting) - 1, 0), LONGEST, LONGEST + 1]
    sizes = st.sampled_from(edges) | st.integers(0, LONGEST + 5)
    requests = st.builds(lambda mark, size: mark.ljust(size, b".")[:size], MARKS, sizes)
    datagrams = st.builds(
        lambda data, host, port, local: Datagram(data, host, port, *local), requests, HOSTS, PORTS, LOCALS
    )
    return greeting, draw(st.lists(st.lists(datagrams, max_size=40), min_size=1, max_size=3))


@needs_mmsg
@given(exchanges(), st.sampled_from([0, 1024]))
def test_both_paths_answer_the_same_datagrams(exchange: tuple[str, list[list[Datagram]]], budget: float) -> None:
    plain, counted = _answers("plain", *exchange, budget)
    fast, counted_too = _answers("fast", *exchange, budget)
    assert sorted(fast) == sorted(plain)
    assert counted_too.greeted == counted.greeted
    assert counted_too.refused == counted.refused


@needs_mmsg
def test_the_proof_has_something_to_prove() -> None:
    """Free requests do take the fast path: the protocol is not called for them."""
    batch = [Datagram(MARKED, "192.0.2.1", 40000 + i, "127.0.0.1", "127.0.0.1") for i in range(9)]
    called: list[Any] = []
    judge = FastGreetingDatagramProtocol._judge

    def noted(self: FastGreetingDatagramProtocol, request: bytes, addr: Any) -> Any:
        called.append(addr)
        return judge(self, request, addr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastGreetingDatagramProtocol, "_judge", noted)
        sent, ledger = _answers("fast", "Hi", [batch, batch])
    assert len(sent) == ledger.visits == 19
    assert len(called) == 1, "the first, before there is a greeting"


def test_measured_answers_need_no_call_once_there_was_one() -> None:
    session = {"s": "fedcba9876543210", "n": 0, "a": 0, "w": "count"}
    protocol = FastGreetingDatagramProtocol(TextGreeter("Hi"), policy=UdpPolicy(lambda: 0.0), sessions=Sessions())
    protocol.makeConnection(cast(Any, Kernel([])))
    measured = wire.request("0123456789abcdef", 1200, session)
    protocol.datagramReceived(measured, PEER)
    assert protocol.ledger.greeted == {"udp": 1}
    free = protocol.free_answer()
    assert free is not None
    assert free.own is not None
    assert MARKED[free.own_at] == free.plain != measured[free.own_at]
    answer = free.own(bytearray(b"--" + measured), 2, 1202, 5, 64, 0)
    assert answer is not None
    found = wire.decode_measured(answer)
    assert found is not None
    assert (found.seen, found.seq, found.rx, found.size) == (2, 2, 5, 1200)


def test_a_greeter_that_fails_does_not_stop_measured_answers(logged_errors: Any) -> None:
    class Broken:
        needs: frozenset[str] = frozenset()

        def greet(self, visit: Any) -> bytes:
            raise ZeroDivisionError

    protocol = FastGreetingDatagramProtocol(Broken(), policy=UdpPolicy(lambda: 0.0), sessions=Sessions())
    protocol.makeConnection(cast(Any, Kernel([])))
    fields = {"s": "fedcba9876543210", "n": 0, "a": 0, "w": "count"}
    protocol.datagramReceived(wire.request("0123456789abcdef", 1200, fields), PEER)
    assert protocol.ledger.greeted == {"udp": 1}
    assert logged_errors.flush(ZeroDivisionError)
