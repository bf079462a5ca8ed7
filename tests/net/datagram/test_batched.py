"""The batched UDP port: a protocol sees what the plain port shows it, and free answers go out without it."""

from __future__ import annotations

import errno
import socket
import sys
import time
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any, cast

import pytest
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import DatagramProtocol

from greetsvc.net.datagram import batched, choice
from greetsvc.net.datagram.batched import BatchedPort
from greetsvc.net.datagram.port import Covers, DatagramPort, FreeAnswer
from greetsvc.net.linux.mmsg import AVAILABLE, MESSAGES
from greetsvc.net.sockets import datagram_socket, ipv6_works

FDS = cast(IReactorFDSet, reactor)
needs_mmsg = pytest.mark.skipif(not AVAILABLE, reason="recvmmsg is Linux's")
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")


class Recorder(DatagramProtocol):
    """Notes what it receives, and answers with what `answer` returns."""

    noisy = False

    def __init__(self, answer: Callable[[bytes, Any], bytes | None]) -> None:
        self.answer: Callable[[bytes, Any], Any] = answer
        self.seen: list[tuple[bytes, str, str | None, bool]] = []
        self.arrivals: list[Any] = []
        self.port: DatagramPort | None = None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        port = cast(DatagramPort, self.transport)
        self.seen.append((datagram, addr[0], port.asked, port.group))
        self.arrivals.append(port.arrival)
        answer = self.answer(datagram, addr)
        if answer is not None:
            port.write(answer, addr)


class Rig:
    """A port that is read by hand, and clients of it."""

    def __init__(
        self,
        kind: str,
        host: str,
        answer: Callable[[bytes, Any], bytes | None],
        batches: Any = None,
        *,
        headers: bool = False,
    ) -> None:
        sock = datagram_socket(host, 0, v6only=True)
        self.family = sock.family
        self.protocol = Recorder(answer)
        self.dropped: Counter[str] = Counter()
        options: dict[str, Any] = {
            "longest": 1000,
            "headers": headers,
            "dropped": lambda reason: self.dropped.update([reason]),
        }
        if kind == "batched":
            self.port: DatagramPort = BatchedPort(sock, self.protocol, FDS, batches=batches, **options)
        else:
            self.port = DatagramPort(sock, self.protocol, FDS, **options)
        self.port.startListening()
        self.clients: list[socket.socket] = []

    def client(self, target: str) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_DGRAM)
        client.settimeout(5)
        client.connect((target, cast(Any, self.port.getHost()).port))
        self.clients.append(client)
        return client

    def take(self, clients: Sequence[socket.socket], requests: Sequence[bytes], *, alone: bool) -> None:
        """Have the clients send these, and read them: each when it comes, or all at once."""
        if alone and isinstance(self.port, BatchedPort):
            self.port._alone, self.port.doRead = len(requests) + 1, self.port._read_alone
        for client, request in zip(clients, requests, strict=True):
            client.send(request)
            if alone:
                self.port.doRead()
        if not alone:
            self.port.doRead()

    def close(self) -> None:
        self.port.stopListening()
        for client in self.clients:
            client.close()


@pytest.fixture(params=[pytest.param("batched", marks=needs_mmsg), "one by one"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(kind: str) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(host: str, answer: Callable[[bytes, Any], bytes | None], **options: Any) -> Rig:
        made.append(Rig(kind, host, answer, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


SAME = b"Thank you for connecting\r\n"
each_alone = pytest.mark.parametrize("alone", [False, True], ids=["together", "each alone"])
ADDRESSES = [
    ("127.0.0.1", "127.0.0.1"),
    ("", "127.0.0.1"),
    ("", "127.0.0.2"),
    pytest.param("::1", "::1", marks=needs_ipv6),
    pytest.param("::", "::1", marks=needs_ipv6),
]


@each_alone
@pytest.mark.parametrize("answer", [lambda *_: SAME, lambda data, addr: data + str(addr[1]).encode()])
@pytest.mark.parametrize(("host", "target"), ADDRESSES)
def test_every_client_is_answered_from_the_address_it_sent_to(
    rig: Callable[..., Rig], host: str, target: str, answer: Callable[[bytes, Any], bytes], alone: bool
) -> None:
    made = rig(host, answer)
    clients = [made.client(target) for _ in range(5)]
    made.take(clients, [b"%d" % number for number in range(5)], alone=alone)
    # A connected socket receives only from the address it is connected to.
    assert [client.recv(100) for client in clients] == [
        answer(b"%d" % number, client.getsockname()) for number, client in enumerate(clients)
    ]
    asked = target if host in {"", "::"} else None
    assert [(seen[2], seen[3]) for seen in made.protocol.seen] == [(asked, False)] * 5


@each_alone
@pytest.mark.parametrize(("host", "target"), ADDRESSES)
def test_headers_change_nothing_but_what_is_known_of_a_datagram(
    rig: Callable[..., Rig], host: str, target: str, alone: bool
) -> None:
    made = rig(host, lambda data, _addr: SAME if data == b"1" else data, headers=True)
    clients = [made.client(target) for _ in range(4)]
    level, tos = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if ":" in target else (socket.IPPROTO_IP, socket.IP_TOS)
    before = time.time_ns()
    for number, client in enumerate(clients):
        client.setsockopt(level, tos, number << 2 | 2)
    made.take(clients, [b"0", b"0", b"1", b"1"], alone=alone)
    assert [client.recv(100) for client in clients] == [b"0", b"0", SAME, SAME]
    asked = target if host in {"", "::"} else None
    assert [seen[2] for seen in made.protocol.seen] == [asked] * 4
    known = made.protocol.arrivals
    assert [(one.ttl, one.dscp, one.ecn) for one in known] == [(64, number, 2) for number in range(4)]
    times = [one.time for one in known]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= time.time_ns()
    assert made.port.arrival is None


def test_requests_without_an_answer_do_not_shift_the_answers_to_others(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda data, _addr: None if data in {b"0", b"3", b"4"} else SAME)
    clients = [made.client("127.0.0.1") for _ in range(8)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    made.port.doRead()
    for number, client in enumerate(clients):
        if number in {0, 3, 4}:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(100)
        else:
            assert client.recv(100) == SAME


def test_answers_that_change_within_a_batch_reach_the_right_clients(rig: Callable[..., Rig]) -> None:
    other = b"something else"
    made = rig("", lambda data, _addr: SAME if int(data) < 4 or int(data) == 9 else other)
    clients = [made.client("127.0.0.1") for _ in range(10)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    made.port.doRead()
    assert [client.recv(100) for client in clients] == [SAME] * 4 + [other] * 5 + [SAME]


def test_an_empty_datagram_is_delivered_like_any_other(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda *_: b"")
    client = made.client("127.0.0.1")
    client.send(b"")
    client.send(b"")
    made.port.doRead()
    assert client.recv(100) == client.recv(100) == b""
    assert [seen[0] for seen in made.protocol.seen] == [b"", b""]


def test_a_datagram_that_is_too_long_is_dropped_and_reported(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda *_: SAME)
    client = made.client("127.0.0.1")
    for size in (1000, 1001, 60000):
        client.send(b"x" * size)
    made.port.doRead()
    assert made.dropped == {"oversize": 2}
    assert [len(seen[0]) for seen in made.protocol.seen] == [1000]


def test_one_reactor_turn_reads_a_bounded_number_of_datagrams(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda *_: None)
    client = made.client("127.0.0.1")
    for _ in range(MESSAGES + 36):
        client.send(b"")
    made.port.doRead()
    assert len(made.protocol.seen) == MESSAGES
    made.port.doRead()
    assert len(made.protocol.seen) == MESSAGES + 36


def test_a_datagram_to_another_address_is_sent_at_once(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda *_: None)
    client, third = made.client("127.0.0.1"), made.client("127.0.0.1")
    made.protocol.answer = lambda *_: made.port.write(b"for the third", third.getsockname()) and None
    client.send(b"x")
    made.port.doRead()
    assert third.recv(100) == b"for the third"


def test_a_protocol_that_stops_the_port_is_not_called_again(rig: Callable[..., Rig]) -> None:
    made: Rig = rig("127.0.0.1", lambda *_: None)
    made.protocol.answer = lambda *_: made.port.stopListening() and None
    client = made.client("127.0.0.1")
    client.send(b"1")
    client.send(b"2")
    made.port.doRead()
    assert [seen[0] for seen in made.protocol.seen] == [b"1"]


@pytest.mark.parametrize("error", [ZeroDivisionError, CancelledError, SystemExit])
def test_an_error_of_the_protocol_is_logged_and_the_next_datagram_answered(
    rig: Callable[..., Rig], logged_errors: Any, error: type[BaseException]
) -> None:
    def answer(data: bytes, _addr: Any) -> bytes:
        if data == b"1":
            raise error
        return SAME

    made = rig("127.0.0.1", answer)
    client = made.client("127.0.0.1")
    for number in range(4):
        client.send(b"%d" % number)
    made.port.drain()
    assert [client.recv(100) for _ in range(3)] == [SAME] * 3
    assert len(logged_errors.flush(error)) == 1


@needs_mmsg
def test_an_answer_that_the_kernel_refuses_is_reported_and_the_others_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Rig("batched", "127.0.0.1", lambda *_: SAME)
    try:
        clients = [made.client("127.0.0.1") for _ in range(6)]
        for client in clients:
            client.send(b"x")
        messages = made.port._messages  # type: ignore[attr-defined]
        send = messages.send
        refused: list[int] = []

        def refuse_the_fourth(first: int, count: int) -> int:
            if first == 3 and not refused:
                refused.append(first)
                raise OSError(errno.EPERM, "Operation not permitted")
            return int(send(first, min(count, 3 - first) if first < 3 else count))

        monkeypatch.setattr(messages, "send", refuse_the_fourth)
        made.port.doRead()
        for number, client in enumerate(clients):
            if number == 3:
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.recv(100)
            else:
                assert client.recv(100) == SAME
        assert made.dropped == {"send-EPERM": 1}
    finally:
        made.close()


@needs_mmsg
def test_an_answer_to_a_datagram_that_came_alone_and_is_refused_is_reported(
    freely: Freely, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    made.take([client], [MARKED], alone=True)

    def refuse(*_: object) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(made.port, "_answer_now", refuse)
        made.take([client], [MARKED], alone=True)
    made.take([client], [MARKED], alone=True)
    assert made.dropped == {"send-EPERM": 1}
    assert [client.recv(100) for _ in range(2)] == [SAME] * 2


@needs_mmsg
def test_a_crowd_is_read_in_batches_again_soon_after_datagrams_came_alone(freely: Freely, free: Free) -> None:
    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    ways = set()
    for _ in range(40):
        ways.add(made.port.doRead)
        client.send(MARKED)
        made.port.doRead()
    assert len(ways) == 2, "read in batches of one, and then alone"
    for _ in range(100):
        client.send(MARKED)
    reads = 0
    while len(free.noted) < 140:
        made.port.doRead()
        reads += 1
    assert reads <= 16 + 2
    assert [client.recv(100) for _ in range(140)] == [SAME] * 140


@needs_mmsg
@pytest.mark.parametrize(("pause", "reads"), [(0.0, 3), (1.0, 18)], ids=["fast", "slow"])
def test_the_next_datagram_is_looked_for_only_where_it_comes_soon(
    freely: Freely, free: Free, monkeypatch: pytest.MonkeyPatch, pause: float, reads: int
) -> None:
    made, now = freely("127.0.0.1"), 100.0
    monkeypatch.setattr(batched, "perf_counter", lambda: now)
    client = made.client("127.0.0.1")
    for _ in range(30):
        client.send(MARKED)
    made.port._alone, made.port.doRead = 30, made.port._read_alone  # type: ignore[attr-defined]
    turns = 0
    while len(free.noted) < 30:
        made.port.doRead()
        now += pause
        turns += 1
        if turns == 1:
            assert len(free.noted) == 1, "the first datagram shows nothing"
            made.port._alone = 16  # type: ignore[attr-defined]  # as many as one turn may have
        assert turns <= reads
    assert turns == reads
    assert [client.recv(100) for _ in range(30)] == [SAME] * 30
    assert not made.dropped


@needs_mmsg
def test_a_protocol_that_stops_at_a_datagram_of_a_fast_peer_sees_no_other() -> None:
    def stop(*_: object) -> None:
        made.port.stopListening()

    made = Rig("batched", "127.0.0.1", stop)
    client = made.client("127.0.0.1")
    for _ in range(3):
        client.send(b"stop")
    made.port._latest_alone = perf_counter()  # type: ignore[attr-defined]
    made.port._alone = 16  # type: ignore[attr-defined]
    made.port._read_alone()  # type: ignore[attr-defined]
    assert len(made.protocol.seen) == 1
    assert not made.dropped
    made.close()


@needs_mmsg
def test_at_a_stop_all_that_waits_is_answered_also_where_datagrams_came_alone(freely: Freely) -> None:
    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    made.port._alone, made.port.doRead = 16, made.port._read_alone  # type: ignore[attr-defined]
    for _ in range(100):
        client.send(MARKED)
    made.port.drain()
    assert [client.recv(100) for _ in range(100)] == [SAME] * 100


@needs_mmsg
def test_failed_system_calls_raise_oserror() -> None:
    made = Rig("batched", "127.0.0.1", lambda *_: SAME)
    messages = made.port._messages  # type: ignore[attr-defined]
    with pytest.raises(BlockingIOError):
        messages.receive()
    made.port.doRead()
    assert not made.dropped
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        messages.receive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        messages.send(0, 1)


def test_a_socket_that_cannot_be_batched_gets_the_plain_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(host: str, **asked: Any) -> type:
        port = choice.udp_port(datagram_socket(host, 0), Recorder(lambda *_: None), FDS, longest=100, **asked)
        port._sock.close()
        return type(port)

    if AVAILABLE:
        assert chosen("127.0.0.1") is BatchedPort
    assert chosen("127.0.0.1", headers=True) is BatchedPort
    if ipv6_works():
        assert chosen("::") is DatagramPort, "datagrams of a dual-stack socket carry either kind of packet info"
    monkeypatch.setattr(choice, "AVAILABLE", False)
    assert chosen("127.0.0.1") is DatagramPort
    monkeypatch.setattr(choice, "BatchedPort", None)
    assert chosen("127.0.0.1") is DatagramPort


def covers(mark: bytes, lowest_port: int = 0) -> Covers:
    """Requests that are longer than the answer, begin with ``mark``, and were not sent to a group."""

    def covered(size: int, data: bytes | bytearray, start: int, end: int, port: int, group: bool) -> bool:
        return size < end - start and data.startswith(mark, start, end) and port >= lowest_port and not group

    return covered


class Free:
    """Gives ``SAME`` free of charge to marked requests, and notes who got it."""

    def __init__(self) -> None:
        self.answer: Callable[[], FreeAnswer | None] = lambda: FreeAnswer(SAME, covers(b"MARK"))
        self.noted: list[Any] = []

    def free_answer(self) -> FreeAnswer | None:
        return self.answer()

    def answered(self, peers: Sequence[tuple[Any, ...]]) -> None:
        self.noted += peers


MARKED = b"MARK".ljust(len(SAME) + 1, b".")


@pytest.fixture
def free() -> Free:
    return Free()


@pytest.fixture
def freely(free: Free) -> Iterator[Callable[[str], Rig]]:
    """Makes batched ports that give the answer of ``free``."""
    made: list[Rig] = []

    def make(host: str) -> Rig:
        made.append(Rig("batched", host, lambda *_: SAME, free))
        return made[-1]

    yield make
    for each in made:
        each.close()


Freely = Callable[[str], Rig]


@needs_mmsg
@each_alone
@pytest.mark.parametrize(("host", "target"), ADDRESSES)
def test_free_requests_are_answered_without_the_protocol(
    freely: Freely, free: Free, host: str, target: str, alone: bool
) -> None:
    made = freely(host)
    clients = [made.client(target) for _ in range(9)]
    made.take(clients, [MARKED if number % 3 else b"%d" % number for number in range(9)], alone=alone)
    assert [client.recv(100) for client in clients] == [SAME] * 9
    assert [seen[0] for seen in made.protocol.seen] == [b"0", b"3", b"6"]
    assert [peer[:2] for peer in free.noted] == [
        client.getsockname()[:2] for number, client in enumerate(clients) if number % 3
    ]


class Batchwise:
    """Decides for a whole batch, and notes what it was asked."""

    def __init__(self, *, all_free: bool = True, own: bool = False) -> None:
        self.asked: list[tuple[int, int, list[bytes], list[int]]] = []
        self.singly = 0
        self._all_free = all_free
        self.answer = FreeAnswer(SAME, self._covers, covers_all=self._covers_all)
        if own:
            self.answer = self.answer._replace(own=self._own, own_at=8, plain=b"."[0])

    def _covers(self, *facts: Any) -> bool:
        self.singly += 1
        return covers(b"MARK")(*facts)

    def _covers_all(self, size: int, shortest: int, heads: Sequence[int], ports: Collection[int]) -> bool:
        self.asked.append((size, shortest, [head.to_bytes(8, sys.byteorder) for head in heads], [*ports]))
        return self._all_free

    def _own(self, *_: Any) -> bytes:
        return b"its own"


@needs_mmsg
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("host", "target"), ADDRESSES)
def test_a_batch_is_answered_at_once_where_one_answer_is_that_to_all(
    freely: Freely, free: Free, host: str, target: str, own: bool
) -> None:
    rule = Batchwise(own=own)
    free.answer = lambda: rule.answer
    made = freely(host)
    clients = [made.client(target) for _ in range(9)]
    requests = [MARKED + bytes([number]) * number for number in range(9)]
    made.take(clients, requests, alone=False)
    assert [client.recv(100) for client in clients] == [SAME] * 9
    ports = [client.getsockname()[1] for client in clients]
    if made.port.tells_destination:  # which may be that of a group: the rule is asked for each
        assert (rule.asked, rule.singly) == ([], 9)
    else:
        assert rule.asked == [(len(SAME), len(MARKED), [MARKED[:8]] * 9, ports)]
        assert rule.singly == 0
    assert not made.protocol.seen
    assert [peer[1] for peer in free.noted] == ports


@needs_mmsg
@pytest.mark.parametrize("odd", [MARKED.ljust(1001, b"."), b"MARK", MARKED[:8] + b"=" + MARKED[9:], b""])
def test_one_odd_request_has_each_of_its_batch_looked_at(freely: Freely, free: Free, odd: bytes) -> None:
    """One that is too long, too short for what is looked at, or wants an answer of its own."""
    rule = Batchwise(own=True)
    free.answer = lambda: rule.answer
    made = freely("127.0.0.1")
    clients = [made.client("127.0.0.1") for _ in range(9)]
    made.take(clients, [odd if number == 4 else MARKED for number in range(9)], alone=False)
    assert bool(rule.asked) is (len(odd) <= 1000)
    answers = [client.recv(100) for number, client in enumerate(clients) if number != 4]
    assert answers == [SAME] * 8
    assert len(free.noted) + len(made.protocol.seen) + made.dropped.total() == 9


@needs_mmsg
def test_a_batch_of_which_the_rule_says_no_is_looked_at_one_by_one(freely: Freely, free: Free) -> None:
    rule = Batchwise(all_free=False)
    free.answer = lambda: rule.answer
    made = freely("127.0.0.1")
    clients = [made.client("127.0.0.1") for _ in range(9)]
    made.take(clients, [MARKED] * 9, alone=False)
    assert [client.recv(100) for client in clients] == [SAME] * 9
    assert (len(rule.asked), rule.singly) == (1, 9)


@needs_mmsg
@pytest.mark.parametrize("all_free", [True, False])
def test_a_turn_reads_a_bounded_number_of_full_batches(freely: Freely, free: Free, all_free: bool) -> None:
    rule = Batchwise(all_free=all_free)
    free.answer = lambda: rule.answer
    made = freely("127.0.0.1")
    made.port._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    client = made.client("127.0.0.1")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if made.port._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 6 * MESSAGES * 768:
        pytest.skip("the kernel's limit for receive buffers is too low")
    for _ in range(6 * MESSAGES - 1):
        client.send(MARKED)
    made.port.doRead()
    assert len(free.noted) == 4 * MESSAGES
    made.port.doRead()
    assert len(free.noted) == 6 * MESSAGES - 1, "a batch that is not full is the last of its turn"
    assert bool(rule.singly) is not all_free


@needs_mmsg
def test_one_batch_is_all_of_a_turn_where_the_protocol_has_to_be_called(freely: Freely, free: Free) -> None:
    free.answer = lambda: None
    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    for _ in range(2 * MESSAGES):
        client.send(MARKED)
    made.port.doRead()
    assert len(made.protocol.seen) == MESSAGES


@needs_mmsg
def test_requests_that_are_not_free_are_left_to_the_protocol(freely: Freely, free: Free) -> None:
    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    port = client.getsockname()[1]
    answers = [
        None,
        FreeAnswer(SAME, covers(b"OTHER")),
        FreeAnswer(SAME, covers(b"MARK", port + 1)),
        FreeAnswer(SAME, lambda *_: False),
    ]
    for answer in answers:
        free.answer = partial(FreeAnswer._make, answer) if answer else lambda: None
        client.send(MARKED)
        made.port.doRead()
        assert client.recv(100) == SAME
    free.answer = lambda: FreeAnswer(SAME, covers(b"MARK", port))
    for size in (len(SAME), 1001, len(SAME) + 1):
        client.send(MARKED.ljust(1001, b".")[:size])
        made.port.doRead()
    assert [client.recv(100), client.recv(100)] == [SAME, SAME]
    assert len(made.protocol.seen) == len(answers) + 1
    assert made.dropped == {"oversize": 1}
    assert [peer[1] for peer in free.noted] == [port]


@needs_mmsg
def test_the_free_answer_and_those_of_the_protocol_do_not_mix(freely: Freely, free: Free) -> None:
    made = freely("")
    other = b"something else"
    made.protocol.answer = lambda *_: other
    clients = [made.client("127.0.0.1") for _ in range(9)]
    for number, client in enumerate(clients):
        client.send(MARKED if number in {0, 3, 4, 8} else b"?")
    made.port.doRead()
    assert [client.recv(100) for client in clients] == [
        SAME if number in {0, 3, 4, 8} else other for number in range(9)
    ]
    assert len(free.noted) == 4


@needs_mmsg
def test_a_mark_is_not_read_beyond_the_end_of_its_datagram(freely: Freely, free: Free) -> None:
    made = freely("127.0.0.1")
    free.answer = lambda: FreeAnswer(SAME, covers(MARKED * 2))
    client = made.client("127.0.0.1")
    client.send(MARKED * 3)
    made.port.doRead()
    client.send(MARKED)
    made.port.doRead()
    assert [client.recv(100), client.recv(100)] == [SAME, SAME]
    assert [seen[0] for seen in made.protocol.seen] == [MARKED]


@needs_mmsg
def test_a_request_to_a_group_is_known_as_one(freely: Freely, free: Free) -> None:
    made = freely("")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(MARKED, ("127.255.255.255", cast(Any, made.port.getHost()).port))
        made.port.doRead()
    assert [seen[3] for seen in made.protocol.seen] == [True]
    assert free.noted == []


@needs_mmsg
def test_a_protocol_that_fails_at_free_answers_does_not_end_the_port(
    freely: Freely, free: Free, logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    made = freely("127.0.0.1")
    client = made.client("127.0.0.1")
    monkeypatch.setattr(free, "answered", fail)
    client.send(MARKED)
    made.port.doRead()
    free.answer = fail
    client.send(MARKED)
    made.port.doRead()
    assert [client.recv(100), client.recv(100)] == [SAME, SAME]
    assert len(logged_errors.flush(ZeroDivisionError)) == 2


@needs_mmsg
def test_a_port_that_stops_in_a_batch_has_sent_and_counted_what_it_answered(freely: Freely, free: Free) -> None:
    made = freely("127.0.0.1")
    clients = [made.client("127.0.0.1") for _ in range(6)]

    def answer(data: bytes, addr: Any) -> None:
        if data == b"stop":
            made.port.stopListening()
            with pytest.raises(OSError, match="Bad file descriptor"):
                made.port.write(SAME, addr)

    made.protocol.answer = answer
    for client, request in zip(clients, (MARKED, b"?", MARKED, b"stop", MARKED, b"?"), strict=True):
        client.send(request)
    made.port.doRead()
    assert [client.recv(100) for client in clients[:4:2]] == [SAME] * 2
    assert [peer[1] for peer in free.noted] == [client.getsockname()[1] for client in clients[:4:2]]
    assert [seen[0] for seen in made.protocol.seen] == [b"?", b"stop"]


def test_a_protocol_that_drains_its_port_while_it_is_called_changes_no_answer(rig: Callable[..., Rig]) -> None:
    made = rig("127.0.0.1", lambda data, _: data)
    clients = [made.client("127.0.0.1") for _ in range(6)]

    def answer(data: bytes, _: Any) -> bytes:
        if data == b"1":
            for number, client in enumerate(clients[3:], 3):
                client.send(b"%d" % number)
            made.port.drain()
        return data

    made.protocol.answer = answer
    for number, client in enumerate(clients[:3]):
        client.send(b"%d" % number)
    made.port.drain()
    assert [client.recv(100) for client in clients] == [b"%d" % number for number in range(6)]
    assert sorted(seen[0] for seen in made.protocol.seen) == [b"%d" % number for number in range(6)]


@needs_mmsg
@each_alone
@pytest.mark.parametrize(("host", "target"), ADDRESSES)
def test_own_answers_and_the_free_answer_go_out_in_batches(host: str, target: str, alone: bool) -> None:
    asked: list[tuple[bytes, int, int, int]] = []

    def own(data: bytearray, start: int, end: int, when: int, ttl: int, tos: int) -> bytes | None:
        request = bytes(data[start:end])
        asked.append((request, when, ttl, tos))
        return None if request[4:5] == b"n" else b"own " + request[4:]

    free = Free()
    free.answer = lambda: FreeAnswer(b"free", covers(b"MARK"), own, own_at=4, plain=ord("."))
    made = Rig("batched", host, lambda data, _addr: b"called " + data[4:], free, headers=True)
    texts = [
        b"MARK....",
        b"MARKx1..",
        b"MARKx2..",
        b"MARK....",
        b"MARKn...",
        b"MARKx3..",
        b"MARK....",
        b"xx",
        b"MARKx4..",
    ]
    clients = [made.client(target) for _ in texts]
    before = time.time_ns()
    made.take(clients, texts, alone=alone)
    said = [client.recv(100) for client in clients]
    assert said == [
        *(b"free", b"own x1..", b"own x2..", b"free", b"called n...", b"own x3..", b"free", b"called ", b"own x4..")
    ]
    assert [request for request, *_ in asked] == [
        text for text in texts if text[4:5] in {b"x", b"n"} and text != b"xx"
    ]
    assert all((ttl, tos) == (64, 0) and before <= when <= time.time_ns() for _, when, ttl, tos in asked)
    assert [peer[1] for peer in free.noted] == [
        client.getsockname()[1] for client, text in zip(clients, said, strict=True) if not text.startswith(b"called")
    ]
    made.close()
