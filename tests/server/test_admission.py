"""Who is admitted, without sockets."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.server.admission import SITE_FACTOR, TABLE_SIZE, Admission


def _enter(admission: Admission, host: str) -> str | None:
    """Enter if admitted; why not otherwise."""
    source = admission.source(host)
    reason = admission.refusal(source)
    if reason is None:
        admission.enter(source)
    return reason


def test_without_limits_everybody_is_admitted() -> None:
    admission = Admission()
    assert {_enter(admission, f"192.0.2.{number % 256}") for number in range(1000)} == {None}
    assert admission.open == 1000


def test_the_maximum_counts_all_sources_together() -> None:
    admission = Admission(max_connections=3)
    assert [_enter(admission, host) for host in ("192.0.2.1", "2001:db8::1", "", "198.51.100.1")] == [
        None,
        None,
        None,
        "max-connections",
    ]


def test_an_ipv4_source_is_a_24_and_its_neighbour_another() -> None:
    admission = Admission(max_per_source=2)
    assert [_enter(admission, f"192.0.2.{last}") for last in (0, 255, 7)] == [None, None, "max-per-source"]
    assert _enter(admission, "192.0.3.0") is None


def test_an_ipv6_source_is_a_56_and_its_neighbour_another() -> None:
    admission = Admission(max_per_source=1)
    assert _enter(admission, "2001:db8:0:0::1") is None
    assert _enter(admission, "2001:db8:0:ff:ffff::1") == "max-per-source"
    assert _enter(admission, "2001:db8:0:100::1") is None


def test_an_ipv6_48_may_have_eight_times_as_many_as_a_56() -> None:
    admission = Admission(max_per_source=2)
    hosts = [f"2001:db8:0:{subnet:x}00::{host}" for subnet in range(SITE_FACTOR) for host in (1, 2)]
    assert {_enter(admission, host) for host in hosts} == {None}
    assert _enter(admission, "2001:db8:0:ff00::1") == "max-per-source"
    assert _enter(admission, "2001:db8:1:ff00::1") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1"])
def test_loopback_is_exempt_only_if_asked_for(host: str) -> None:
    exempt, limited = Admission(max_per_source=1), Admission(max_per_source=1, exempt_loopback=False)
    assert [_enter(exempt, host) for _ in range(3)] == [None, None, None]
    assert [_enter(limited, host) for _ in range(2)] == [None, "max-per-source"]


def test_a_peer_without_an_ip_address_has_no_source_but_counts() -> None:
    admission = Admission(max_connections=2, max_per_source=1)
    hosts = ["/run/peer.sock", "", "\0abstract"]
    assert [_enter(admission, host) for host in hosts] == [None, None, "max-connections"]


def test_the_scope_of_a_link_local_address_makes_no_other_source() -> None:
    admission = Admission(max_per_source=1)
    assert _enter(admission, "fe80::1%eth0") is None
    assert _enter(admission, "fe80::2%7") == "max-per-source"


def test_a_connection_that_leaves_makes_room() -> None:
    admission = Admission(max_connections=1, max_per_source=1)
    source = admission.source("192.0.2.1")
    admission.enter(source)
    assert admission.refusal(source) == "max-connections"
    admission.leave(source)
    assert admission.refusal(source) is None
    assert admission.open == 0


def test_the_callback_for_empty_is_called_when_the_last_connection_leaves() -> None:
    told: list[int] = []
    admission = Admission()
    admission.when_empty = lambda: told.append(admission.open)
    for _ in range(3):
        admission.enter(())
    for _ in range(3):
        admission.leave(())
    assert told == [0]


@pytest.mark.parametrize("enters", [True, False])
def test_a_hand_over_does_not_call_the_callback_for_empty_in_between(enters: bool) -> None:
    told: list[int] = []
    admission = Admission(max_connections=1, max_per_source=1)
    admission.when_empty = lambda: told.append(admission.open)
    admission.enter(())
    source = admission.source("192.0.2.1")

    def pass_on() -> None:
        assert admission.refusal(source) is None, "it does not count against itself"
        if enters:
            admission.enter(source)

    admission.hand_over(pass_on)
    assert told == ([] if enters else [0])
    if enters:
        admission.leave(source)
    assert told == [0]


def test_a_random_walk_over_addresses_grows_no_memory() -> None:
    admission = Admission(max_per_source=4)
    walk = random.Random(1)

    def size() -> int:
        return sum(sys.getsizeof(value) for value in vars(admission).values())

    before = size()
    for _ in range(20_000):
        assert _enter(admission, f"{walk.randrange(1, 224)}.{walk.randrange(256)}.{walk.randrange(256)}.1") in {
            None,
            "max-per-source",
        }
    assert size() == before
    assert len(admission._by_source) == len(admission._by_site) == TABLE_SIZE


@given(
    st.lists(
        st.tuples(
            st.one_of(st.ip_addresses(v=4, network="192.0.0.0/22"), st.ip_addresses(v=6, network="2001:db8::/52")),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_comes_and_goes_no_count_is_ever_below_zero_or_above_its_limit(
    steps: list[tuple[object, bool]],
) -> None:
    admission = Admission(max_connections=20, max_per_source=3)
    inside: list[tuple[int, ...]] = []
    for host, comes in steps:
        if comes:
            source = admission.source(str(host))
            if admission.refusal(source) is None:
                admission.enter(source)
                inside.append(source)
        elif inside:
            admission.leave(inside.pop(0))
        assert admission.open == len(inside) <= 20
        assert max(admission._by_source) <= 3
    for source in inside:
        admission.leave(source)
    assert not any(admission._by_source)
    assert not any(admission._by_site)
