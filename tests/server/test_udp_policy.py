"""The UDP rule with a clock that the test turns: no sockets."""

from __future__ import annotations

import heapq
import itertools
import random
import socket
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from attrs import Factory, define
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import wire
from greetsvc.server.sources import Hasher
from greetsvc.server.udp_policy import (
    ADDRESS_MOST,
    ADDRESS_PAUSE,
    BURST,
    ENTRIES,
    LOOP_ENTRIES,
    LOOP_MOST,
    LOOP_SILENCE,
    OVERHEAD,
    PREFIXES_IN_TOTAL,
    UdpPolicy,
)
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 40000)
HELLO = b"Thank you for connecting\r\n"
MARKED = wire.request("0123456789abcdef", 1200)


@define
class Time:
    """A clock that stands until it is turned."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _ports() -> Iterator[Address]:
    """Addresses of one prefix with ports that do not repeat, so that the loop guard refuses none."""
    for number in itertools.count():
        yield Address(f"192.0.2.{number % 256}", 1024 + number // 256)


def test_a_marked_request_longer_than_its_answer_is_always_free() -> None:
    policy = UdpPolicy(Time(), budget=0)
    assert {policy.refusal(MARKED, HELLO, PEER) for _ in range(1000)} == {None}


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"x",
        b"greet/1 " + b"." * 1200,
        b"GREET/2 " + b"." * 1200,
        b" " + MARKED,
        MARKED[: len(HELLO)],
        MARKED[: len(HELLO) - 1],
    ],
)
def test_any_other_request_is_paid_for(request_: bytes) -> None:
    assert UdpPolicy(Time(), budget=0).refusal(request_, HELLO, PEER) == "budget"


def test_a_marked_request_is_free_from_one_byte_more_than_its_answer() -> None:
    policy = UdpPolicy(Time(), budget=0)
    assert policy.refusal(MARKED[: len(HELLO) + 1], HELLO, PEER) is None


REQUESTS = st.builds(
    lambda head, size: (head + b"." * size)[: max(size, 8)],
    st.sampled_from([b"GREET/1 ", b"GREET/2 ", b"greet/1 ", b"", b"GREET/1 0123456789abcdef "]),
    st.integers(8, 40),
)


@given(
    st.lists(st.tuples(REQUESTS, st.sampled_from([0, 53, 1023, 1024, 8088, 8089, 40000, 65535])), min_size=1),
    st.integers(0, 30),
)
def test_a_batch_is_free_where_each_of_its_requests_is(requests: list[tuple[bytes, int]], size: int) -> None:
    """Those that are shorter than 8 bytes are not asked for at once."""
    policy = UdpPolicy(Time(), own_ports={8088, 53})
    padded = [(request.ljust(8, b"\0"), port) for request, port in requests]
    heads = [int.from_bytes(request[:8], sys.byteorder) for request, _ in padded]
    at_once = policy.are_free(size, min(len(one) for one, _ in padded), heads, [port for _, port in padded])
    assert at_once == all(policy.is_free(size, one, 0, len(one), port, False) for one, port in padded)


def test_a_batch_with_a_request_shorter_than_the_mark_is_not_free() -> None:
    head = int.from_bytes(b"GREET/1 ", sys.byteorder)  # of which the last byte is of an earlier datagram
    assert not UdpPolicy(Time()).are_free(0, 7, [head], [40000])


def test_exactly_eight_paid_answers_go_to_one_address_and_port() -> None:
    policy = UdpPolicy(Time())
    assert [policy.refusal(b"", b"", PEER) for _ in range(10)] == [None] * LOOP_MOST + ["loop"] * 2
    assert LOOP_MOST == 8
    assert policy.refusal(b"", b"", Address("192.0.2.1", 40001)) is None
    assert policy.refusal(b"", b"", Address("192.0.2.2", 40000)) is None


def test_a_source_that_was_silent_for_ten_seconds_is_answered_again_and_no_earlier() -> None:
    clock = Time()
    policy = UdpPolicy(clock)
    for _ in range(9):
        policy.refusal(b"", b"", PEER)
    clock.now += 9.999
    assert policy.refusal(b"", b"", PEER) == "loop"
    clock.now += 9.999
    assert policy.refusal(b"", b"", PEER) == "loop", "a request ends the silence"
    clock.now += LOOP_SILENCE
    assert [policy.refusal(b"", b"", PEER) for _ in range(9)] == [None] * 8 + ["loop"]


def test_a_slow_loop_ends_after_eight_answers_too() -> None:
    clock = Time()
    policy = UdpPolicy(clock)
    answered = 0
    for _ in range(50):
        answered += policy.refusal(b"", b"", PEER) is None
        clock.now += 9.0
    assert answered == 8


def test_a_hundred_thousand_datagrams_from_one_prefix_get_at_most_burst_and_budget() -> None:
    clock = Time()
    budget = 1024
    policy = UdpPolicy(clock, budget=budget)
    given, seconds = 0, 10
    for peer in itertools.islice(_ports(), 100_000):
        clock.now += seconds / 100_000
        if policy.refusal(b"x", HELLO, peer) is None:
            given += len(HELLO) + OVERHEAD
    assert given <= budget * (BURST + seconds) + 1e-3
    assert given >= budget * (BURST + seconds) - 2 * (len(HELLO) + OVERHEAD)


def test_a_thousand_prefixes_get_at_most_the_total_while_marked_requests_are_answered() -> None:
    clock = Time()
    budget, seconds, rounds = 1024, 4, 30
    policy = UdpPolicy(clock, budget=budget)
    answer = b"x" * 500
    given = 0
    refused: Counter[str | None] = Counter()
    for turn in range(rounds):
        for number in range(1000):
            clock.now += seconds / (1000 * rounds)
            reason = policy.refusal(b"x", answer, Address(f"10.{number >> 8}.{number & 255}.9", 2000 + turn))
            refused[reason] += 1
            given += 0 if reason else len(answer) + OVERHEAD
        assert policy.refusal(MARKED, answer, Address("198.51.100.1", 5000)) is None
    assert given <= budget * PREFIXES_IN_TOTAL * (BURST + seconds)
    assert refused["total-budget"] > 0


def test_an_answer_that_costs_more_than_is_left_is_refused_and_costs_nothing() -> None:
    policy = UdpPolicy(Time(), budget=50)
    assert policy.refusal(b"", b"x" * 173, PEER) == "budget"
    assert policy.refusal(b"", b"x" * 172, PEER) is None


def test_a_budget_refills_up_to_the_burst() -> None:
    clock = Time()
    policy = UdpPolicy(clock, budget=100)
    cost = b"x" * (400 - OVERHEAD)
    assert policy.refusal(b"", cost, PEER) is None
    assert policy.refusal(b"", b"", PEER) == "budget"
    clock.now += 4000
    assert policy.refusal(b"", cost, PEER) is None
    assert policy.refusal(b"", b"", PEER) == "budget"


def test_a_clock_that_goes_back_refills_no_budget() -> None:
    clock = Time()
    policy = UdpPolicy(clock, budget=100)
    for peer in itertools.islice(_ports(), 20):
        clock.now -= 1000
        policy.refusal(b"", b"x" * 72, peer)
    assert policy.refusal(b"", b"x" * 72, PEER) == "budget"


@pytest.mark.parametrize(
    ("port", "group", "reason"),
    [
        (0, False, "port"),
        (7, False, "port"),
        (1023, False, "port"),
        (1024, False, None),
        (65535, False, None),
        (8088, False, "own-port"),
        (8089, False, None),
        (40000, True, "group"),
    ],
)
def test_services_our_own_ports_and_groups_are_never_answered(port: int, group: bool, reason: str | None) -> None:
    policy = UdpPolicy(Time(), own_ports={8088})
    assert policy.never(port, group=group) == reason
    assert policy.refusal(MARKED, HELLO, Address("192.0.2.1", port), group=group) == reason
    assert policy.refusal(b"", HELLO, Address("192.0.2.1", port), group=group) == reason


def test_an_answer_that_begins_with_the_mark_is_never_sent() -> None:
    policy = UdpPolicy(Time())
    answer = wire.MARK + b"Hello"
    for _ in range(3):
        assert policy.refusal(MARKED, answer, PEER) == "mark"
        assert policy.refusal(b"", answer, PEER) == "mark"
        assert policy.refusal(b"", HELLO, PEER) is None


@pytest.mark.parametrize(
    ("request_", "length", "reason"),
    [
        (b"", 512, None),
        (b"", 513, "too-long"),
        (MARKED, 1199, None),
        (MARKED + b"." * 800, 1199, None),
        (MARKED + b"." * 800, 1200, "too-long"),
    ],
)
def test_a_paid_answer_has_at_most_512_bytes_and_any_at_most_1199(
    request_: bytes, length: int, reason: str | None
) -> None:
    policy = UdpPolicy(Time())
    answer = b"x" * length
    assert [policy.refusal(request_, answer, PEER) for _ in range(2)] == [reason, reason]


def test_mapped_ipv4_and_ipv4_are_one_source_and_so_are_two_scopes_of_an_address() -> None:
    policy = UdpPolicy(Time())
    for _ in range(8):
        policy.refusal(b"", b"", Address.plain("::ffff:192.0.2.1", 40000))
    assert policy.refusal(b"", b"", PEER) == "loop"
    for _ in range(8):
        policy.refusal(b"", b"", Address("fe80::1%2", 40000))
    assert policy.refusal(b"", b"", Address("fe80::1%3", 40000)) == "loop"


def test_the_ipv6_prefix_of_a_budget_is_a_56() -> None:
    policy = UdpPolicy(Time(), budget=10)
    assert policy.refusal(b"", b"x" * 12, Address("2001:db8:0:1::1", 2000)) is None
    assert policy.refusal(b"", b"x" * 12, Address("2001:db8:0:ff::1", 2000)) == "budget"
    assert policy.refusal(b"", b"x" * 12, Address("2001:db8:0:100::1", 2000)) is None


Sources = Callable[[random.Random, int], str]


def _anywhere(chance: random.Random, number: int = 0) -> str:
    return socket.inet_ntoa(chance.randbytes(4))


def _again(chance: random.Random, number: int) -> str:
    """Each address comes three times, 2,000 datagrams apart."""
    return _anywhere(random.Random(10_000 + number % 2000 + number // 6000 * 2000))


def _one_of(number_of: int) -> Sources:
    addresses = [_anywhere(random.Random(10_000 + number)) for number in range(number_of)]
    return lambda chance, number: addresses[number % number_of]


def _of_one_v4_16(chance: random.Random, number: int) -> str:
    return f"10.1.{number % 256}.{chance.randrange(1, 255)}"


def _of_one_v6_48(chance: random.Random, number: int) -> str:
    return f"2001:db8:1:{number % 100 << 8:x}::{chance.randrange(1, 60000):x}"


def _of_one_v6_32(chance: random.Random, number: int) -> str:
    return f"2001:db8:{chance.randrange(65536):x}:{chance.randrange(65536):x}::1"


@define
class Flood:
    """Unmarked requests at ``rate`` a second; after 10 s ten people ask as well, every 2 s, sixteen times.

    Arrivals are a Poisson process. The people have prefixes of their own, and each request a new port, as those of
    ``nc -u -w 1`` have.
    """

    sources: Sources
    rate: float
    size: int
    budget: float = 1024
    chance: random.Random = Factory(lambda: random.Random(3))
    drawn: int = 0
    answered: Counter[int] = Factory(Counter)
    """How many people got an answer to their first request, to their second, and so on."""

    def run(self) -> Flood:
        clock, chance = Time(), self.chance
        policy = UdpPolicy(clock, budget=self.budget)
        answer = b"x" * self.size
        begin, end = clock.now, clock.now + 42
        people = [_anywhere(chance) for _ in range(10)]
        asks = sorted(
            (begin + 10 + 2 * (turn + chance.random() / 2), person, turn) for person in people for turn in range(16)
        )
        for number in itertools.count():
            arrival = clock.now + chance.expovariate(self.rate)
            while asks and asks[0][0] < arrival:
                clock.now, person, turn = asks.pop(0)
                if policy.refusal(b"x", answer, Address(person, 20000 + turn)) is None:
                    self.answered[turn] += 1
                    self.drawn += self.size + OVERHEAD
            if arrival >= end:
                break
            clock.now = arrival
            peer = Address(self.sources(chance, number), chance.randrange(1024, 65536))
            if policy.refusal(b"x", answer, peer) is None:
                self.drawn += self.size + OVERHEAD
        assert self.drawn <= self.budget * PREFIXES_IN_TOTAL * (BURST + 42), "the total bounds reflection"
        return self


@pytest.fixture
def same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each run share out the entries of the tables alike. By the keyed hash, chance decides who shares one."""

    def index(_: Hasher, data: bytes) -> int:
        return zlib.crc32(data) << 10 | zlib.adler32(data) & 1023

    monkeypatch.setattr(Hasher, "index", index)


@pytest.mark.usefixtures("same_hashes")
@pytest.mark.parametrize(
    ("sources", "rate", "size", "first", "later"),
    [
        (_anywhere, 1200, 480, 0, 0.95),  # before: 1 of 16
        (_anywhere, 2500, 26, 2, 0.95),  # before: 3 of 17
        (_of_one_v6_32, 1200, 480, 0, 0.95),
        (_of_one_v6_48, 1200, 480, 9, 0.9),
        (_of_one_v4_16, 2500, 480, 9, 0.9),
        (_one_of(100), 1200, 480, 9, 0.9),
        (_one_of(250), 1200, 480, 9, 0.7),
        (_one_of(1000), 2500, 26, 9, 0.9),
        (_again, 200, 480, 3, 0.3),  # like people: only a part of what everybody asks for is left for each
    ],
)
def test_people_are_answered_during_a_flood(
    sources: Sources, rate: float, size: int, first: int, later: float
) -> None:
    """``first`` of ten get an answer to their first request, and the share ``later`` to their other requests.

    One of them may share an entry of a table with the flood by chance.
    """
    answered = Flood(sources, rate, size).run().answered
    assert answered[0] >= first
    assert (answered.total() - answered[0]) / 150 >= later


def test_a_source_that_asks_again_is_answered_though_the_total_is_used_up_by_others() -> None:
    policy, chance = UdpPolicy(Time()), random.Random(4)
    answer = b"x" * 480
    refused = 0
    while refused < 10:  # in a row: one that shares an entry by chance is refused before the total is used up
        refused = 0 if policy.refusal(b"", answer, Address(_anywhere(chance), 2000)) is None else refused + 1
    assert [policy.refusal(b"", answer, Address("198.51.100.1", port)) for port in (5000, 5001)] == [
        "total-budget",
        None,
    ]


def test_a_source_is_forgotten_after_a_minute() -> None:
    clock, chance = Time(), random.Random(4)
    policy = UdpPolicy(clock, budget=100)
    answer = b"x" * 300
    seen = []
    for pause in (0, 31, 65):
        clock.now += pause
        for _ in range(200):
            policy.refusal(b"", answer, Address(_anywhere(chance), 2000))
        seen.append(policy.refusal(b"", answer, Address("198.51.100.1", 5000 + pause)))
    assert seen == ["total-budget", None, "total-budget"]


@pytest.mark.parametrize("sources", [_of_one_v4_16, _of_one_v6_48])
def test_one_network_cannot_use_up_the_total(sources: Sources) -> None:
    policy, chance = UdpPolicy(Time()), random.Random(4)
    reasons = [policy.refusal(b"", b"x" * 480, Address(sources(chance, n), 2000 + n)) for n in range(5000)]
    assert reasons[-1] in {"budget", "total-budget"}
    assert policy.refusal(b"", b"x" * 480, Address("198.51.100.1", 5000)) is None


def test_a_network_may_use_all_of_the_total_that_nobody_else_wants() -> None:
    clock = Time()
    policy = UdpPolicy(clock)
    drawn = 0
    for number in range(60_000):
        clock.now += 0.001
        if policy.refusal(b"", b"x" * 480, Address(f"10.1.{number % 256}.{number % 250}", 1024 + number)) is None:
            drawn += 508
    assert drawn > 0.9 * 1024 * PREFIXES_IN_TOTAL * 60


def test_a_flood_with_a_raised_budget_leaves_room_in_the_loop_guard() -> None:
    """400,000 sources in 10 s, all answered. With 65,536 entries 27 % of all others would then count as loops."""
    clock, chance = Time(), random.Random(5)
    policy = UdpPolicy(clock, budget=10_000_000)
    for _ in range(400_000):
        clock.now += 10 / 400_000
        policy.refusal(b"", HELLO, Address(_anywhere(chance), chance.randrange(1024, 65536)))
    reasons = Counter(policy.refusal(b"", HELLO, Address(_anywhere(chance), 5000)) for _ in range(2000))
    assert reasons == {None: 2000}


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("delay", [0.0, 0.06, 3.0, 9.0])
def test_a_loop_with_an_answerer_that_changes_its_port_ends(host: str, delay: float) -> None:
    clock = Time()
    policy = UdpPolicy(clock, budget=100_000)
    answered = 0
    while policy.refusal(b"", b"", Address(host, 2000 + answered)) is None:
        answered += 1
        clock.now += delay
    assert answered == ADDRESS_MOST
    clock.now += ADDRESS_PAUSE - 0.01
    assert policy.refusal(b"", b"", Address(host, 1999)) == "loop"
    clock.now += 0.01
    assert policy.refusal(b"", b"", Address(host, 1998)) is None, "the address is not silenced for long"


def test_several_loops_with_such_an_answerer_end_too() -> None:
    clock = Time()
    policy = UdpPolicy(clock, budget=100_000)
    port = itertools.count(2000)
    in_flight = 20
    rounds = 0
    while in_flight:
        clock.now += 0.05
        in_flight = sum(policy.refusal(b"", b"", Address("192.0.2.1", next(port))) is None for _ in range(in_flight))
        rounds += 1
    assert rounds <= ADDRESS_MOST / 20 + 2


@pytest.mark.parametrize(("users", "every"), [(5, 1.0), (50, 5.0), (200, 20.0)])
def test_many_users_behind_one_address_are_answered(users: int, every: float) -> None:
    """Each asks at a time of its own, from one port at most eight times in a row, for five minutes."""
    clock, chance = Time(), random.Random(6)
    policy = UdpPolicy(clock, budget=100_000)
    asks = sorted(
        (1000 + every * (turn + chance.random()), user, turn)
        for user in range(users)
        for turn in range(int(300 / every))
    )
    answered = 0
    for clock.now, user, turn in asks:
        answered += policy.refusal(b"", HELLO, Address("192.0.2.1", 2000 + 100 * user + turn // 8)) is None
    assert answered / len(asks) > 0.8


def test_an_address_that_asks_once_a_minute_is_always_answered() -> None:
    clock = Time()
    policy = UdpPolicy(clock)
    for turn in range(500):
        assert policy.refusal(b"", HELLO, Address("192.0.2.1", 2000 + turn)) is None
        clock.now += 60


def test_random_addresses_and_ports_grow_no_table() -> None:
    clock = Time()
    policy = UdpPolicy(clock)
    walk = random.Random(2)
    for _ in range(5000):
        clock.now += walk.random() / 10
        policy.refusal(b"", b"", Address(f"10.{walk.randrange(256)}.{walk.randrange(256)}.1", walk.randrange(65536)))
    assert len(policy._count) == len(policy._last) == LOOP_ENTRIES
    tables = (policy._run, policy._run_as_of, policy._prefixes._left, policy._networks._left, policy._networks._as_of)
    assert {len(table) for table in tables} == {ENTRIES}
    assert len(policy._recent._newer) == len(policy._recent._older) == 1 << 18
    assert len(policy._total.left) == 2


Datagram = tuple[float, int, str, bytes]


def _loop(
    clock: Time, delay: float, answers: dict[str, bytes], policies: dict[str, UdpPolicy | None]
) -> Counter[str]:
    """One forged datagram between A and B, that come from each other's ports; how often each one answers in a minute.

    One without a policy answers whatever it receives.
    """
    addresses = {"A": Address("192.0.2.1", 8088), "B": Address("198.51.100.1", 8088)}
    other = {"A": "B", "B": "A"}
    sent: Counter[str] = Counter()
    order = itertools.count()
    on_the_way: list[Datagram] = [(clock.now, next(order), "A", b"forged")]
    end = clock.now + 60
    while on_the_way and on_the_way[0][0] < end and sum(sent.values()) < 1000:
        clock.now, _, to, data = heapq.heappop(on_the_way)
        policy = policies[to]
        if policy is None or policy.refusal(data, answers[to], addresses[other[to]]) is None:
            sent[to] += 1
            heapq.heappush(on_the_way, (clock.now + delay, next(order), other[to], answers[to]))
    return sent


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 3.0])
@pytest.mark.parametrize("ours", [b"", HELLO])
@pytest.mark.parametrize("theirs", [b"", b"Hi", HELLO, HELLO * 4])
@pytest.mark.parametrize("both_are_greetsvc", [True, False])
def test_a_loop_that_a_forged_datagram_starts_ends_by_itself(
    delay: float, ours: bytes, theirs: bytes, both_are_greetsvc: bool
) -> None:
    clock = Time()
    policies = {"A": UdpPolicy(clock), "B": UdpPolicy(clock) if both_are_greetsvc else None}
    answers = {"A": ours, "B": theirs}
    first = _loop(clock, delay, answers, policies)
    assert 1 <= first["A"] <= LOOP_MOST
    assert first["B"] <= LOOP_MOST
    clock.now += 1
    assert not _loop(clock, delay, answers, policies)["A"], "a second trigger one second later gets no answer"


def test_no_loop_starts_between_two_servers_on_the_same_port_number() -> None:
    clock = Time()
    policies: dict[str, UdpPolicy | None] = {name: UdpPolicy(clock, own_ports={8088}) for name in "AB"}
    assert not _loop(clock, 0.0, {"A": b"", "B": b""}, policies)


@given(
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.one_of(st.ip_addresses(), st.just("::ffff:192.0.2.1")),
    st.integers(0, 65535),
    st.booleans(),
)
def test_the_rule_gives_a_known_reason_or_none_and_raises_nothing(
    request_: bytes, answer: bytes, host: object, port: int, group: bool
) -> None:
    reason = UdpPolicy(Time(), own_ports={9000}).refusal(
        request_, answer, Address.plain(str(host), port), group=group
    )
    assert reason in {None, "port", "own-port", "group", "mark"}
    if port < 1024 or group or port == 9000 or answer.startswith(wire.MARK):
        assert reason is not None
