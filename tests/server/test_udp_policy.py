"""The UDP rule with a clock that the test turns: no sockets."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import wire
from greetsvc.server.udp_policy import (
    BURST,
    ENTRIES,
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
        yield Address(f"192.0.2.{number // 60000 % 256}", 1024 + number % 60000)


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


def test_random_addresses_and_ports_grow_no_table() -> None:
    policy = UdpPolicy(Time())
    walk = random.Random(2)
    for _ in range(5000):
        policy.refusal(b"", b"", Address(f"10.{walk.randrange(256)}.{walk.randrange(256)}.1", walk.randrange(65536)))
    assert (
        len(policy._count)
        == len(policy._last)
        == len(policy._budgets._left)
        == len(policy._budgets._as_of)
        == ENTRIES
    )
    assert len(policy._total._left) == 1


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
