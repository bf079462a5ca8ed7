"""Prefixes of addresses, and the keyed hash over them."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.server.sources import Hasher, is_loopback, prefix
from greetsvc.visit import Address


@given(st.ip_addresses(v=4))
def test_mapped_ipv4_is_shown_and_limited_as_ipv4(address: object) -> None:
    assert Address.plain(f"::ffff:{address}", 5) == Address.plain(str(address), 5) == Address(str(address), 5)


@pytest.mark.parametrize("host", ["::ffff:0:1", "2001:db8::ffff:1", "::1", "", "/run/greet.sock"])
def test_other_hosts_are_shown_as_they_are(host: str) -> None:
    assert Address.plain(host) == (host, 0)


@given(st.ip_addresses(), st.ip_addresses())
def test_two_addresses_share_a_prefix_exactly_when_their_leading_bits_are_equal(one: object, other: object) -> None:
    def network(address: object) -> tuple[int, bytes]:
        found = ip_address(str(address))
        return found.version, found.packed[: 3 if found.version == 4 else 7]

    assert (prefix(str(one), 24, 56) == prefix(str(other), 24, 56)) == (network(one) == network(other))


@pytest.mark.parametrize("host", ["", "localhost", "1.2.3", "/run/x", "::g"])
def test_a_host_that_is_no_address_has_no_prefix(host: str) -> None:
    with pytest.raises(ValueError, match="address"):
        prefix(host, 24, 56)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("128.0.0.1", False),
        ("::", False),
        ("12.7.0.1", False),
    ],
)
def test_loopback_is_127_8_and_ipv6_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_two_hashers_map_the_same_data_differently() -> None:
    data = [bytes([number]) for number in range(64)]
    one, other = Hasher(1 << 20), Hasher(1 << 20)
    assert [one.index(each) for each in data] == [one.index(each) for each in data]
    assert [one.index(each) for each in data] != [other.index(each) for each in data]


def test_entries_are_within_the_table_and_used_evenly() -> None:
    hasher = Hasher(16)
    found = Counter(hasher.index(number.to_bytes(4, "big")) for number in range(16_000))
    assert set(found) == set(range(16))
    assert min(found.values()) > 800
