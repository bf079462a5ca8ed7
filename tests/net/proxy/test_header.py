from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import IPv4Address as Ip4
from ipaddress import IPv6Address as Ip6
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from greetsvc.net.proxy.header import (
    LONGEST_V1,
    LONGEST_V2,
    ProxyHeader,
    ProxyHeaderError,
    ProxyParser,
    crc32c,
    encode_v1,
    encode_v2,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCALHOSTS = Ip4("192.0.2.1").packed + Ip4("198.51.100.2").packed + struct.pack("!HH", 40112, 443)

hosts = st.ip_addresses().map(str)
ports = st.integers(0, 65535)
ends = st.tuples(hosts, ports)
tlvs = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=64)).map(
        lambda tlv: struct.pack("!BH", tlv[0], len(tlv[1])) + tlv[1]
    ),
    max_size=4,
).map(b"".join)


def v2(family: int, block: bytes, *, command: int = 0x21, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def with_checksum(header: bytes) -> bytes:
    """The header with a checksum extension put last."""
    longer = SIGNATURE + header[12:14] + struct.pack("!H", len(header) - 16 + 7) + header[16:] + b"\x03\0\x04"
    return longer + struct.pack("!I", crc32c(longer + bytes(4)))


def parse(data: bytes) -> tuple[ProxyHeader, bytes] | None:
    return ProxyParser().feed(data)


def parse_in_pieces(data: bytes, cuts: list[int]) -> tuple[ProxyHeader, bytes] | None:
    """What comes of feeding the pieces between the cuts; what was not fed belongs to the rest."""
    parser = ProxyParser()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        result = parser.feed(data[start:end])
        if result is not None:
            return result[0], result[1] + data[end:]
    return None


def refused(data: bytes) -> str:
    with pytest.raises(ProxyHeaderError) as caught:
        parse(data)
    return str(caught.value)


def shown(host: str) -> str:
    ip = ip_address(host)
    return str(ip.ipv4_mapped or ip) if isinstance(ip, Ip6) else str(ip)


@given(ends, ends, st.binary(max_size=40))
@example(("192.0.2.1", 0), ("::1", 65535), b"")
def test_an_encoded_header_is_parsed_back_in_both_versions(
    source: tuple[str, int], destination: tuple[str, int], rest: bytes
) -> None:
    for version, encode in ((1, encode_v1), (2, encode_v2)):
        result = parse(encode(source, destination) + rest)
        assert result is not None
        header, left = result
        assert (header.version, left) == (version, rest)
        for address, (host, port) in ((header.source, source), (header.destination, destination)):
            assert isinstance(address, IPv4Address | IPv6Address)
            assert (address.type, address.host, address.port) == ("TCP", shown(host), port)


@given(ends, ends, tlvs, st.booleans(), st.binary(max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_fragments_of_any_size_give_the_same_result(
    source: tuple[str, int], destination: tuple[str, int], tlv: bytes, checksum: bool, rest: bytes, cuts: list[int]
) -> None:
    second = encode_v2(source, destination)
    second = v2(second[13], second[16:] + tlv)
    for header in (encode_v1(source, destination), with_checksum(second) if checksum else second):
        assert parse_in_pieces(header + rest, cuts) == parse(header + rest) != None  # noqa: E711


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(SIGNATURE.__add__),
        st.text(max_size=200).map(lambda text: b"PROXY " + text.encode()),
    ),
    st.lists(st.integers(0, 10_000), max_size=30),
)
@example(SIGNATURE + b"\x21\x11\0\x0c", [])
@example(b"", [])
def test_any_bytes_give_a_header_or_a_reason_or_wait_whatever_their_fragments(data: bytes, cuts: list[int]) -> None:
    try:
        whole = parse(data)
    except ProxyHeaderError:
        with pytest.raises(ProxyHeaderError):
            parse_in_pieces(data, cuts)
    else:
        assert parse_in_pieces(data, cuts) == whole


@pytest.mark.parametrize(
    ("start", "longest"),
    [
        (b"PROXY ", LONGEST_V1),
        (b"PROXY UNKNOWN ", LONGEST_V1),
        (SIGNATURE + b"\x21\x11\x10\0", LONGEST_V2),
        (SIGNATURE + b"\x20\0\x0f\xff", LONGEST_V2),
    ],
)
def test_no_more_than_the_longest_header_is_buffered(start: bytes, longest: int) -> None:
    parser = ProxyParser()
    kept = len(start)
    assert parser.feed(start) is None
    # Filled up with blanks, two of these end as headers and two as errors.
    with suppress(ProxyHeaderError):
        while parser.feed(b" ") is None:
            kept += 1
    assert kept < longest


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ::2 65535 1\r\n", b"PROXY UNKNOWN \xff\r\n"]
)
def test_an_unknown_header_has_no_addresses(header: bytes) -> None:
    assert parse(header + b"GET") == (ProxyHeader(1), b"GET")
    longest = b"PROXY UNKNOWN".ljust(LONGEST_V1 - 2) + b"\r\n"
    assert parse(longest + b"\n") == (ProxyHeader(1), b"\n")
    assert refused(b"PROXY UNKNOWN".ljust(LONGEST_V1 - 1) + b"\r\n") == "oversize"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("TCP4 999.2.3.4 192.0.2.1 1 2\r\n", "address"),
        ("TCP4 192.0.2 192.0.2.1 1 2\r\n", "address"),
        ("TCP4 192.0.2.01 192.0.2.1 1 2\r\n", "address"),
        ("TCP4 ::1 ::2 1 2\r\n", "address"),
        ("TCP6 192.0.2.1 192.0.2.2 1 2\r\n", "address"),
        ("TCP6 1::2::3 ::1 1 2\r\n", "address"),
        ("TCP6 00001::2 ::1 1 2\r\n", "address"),
        ("TCP6 fe80::1%lo ::1 1 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "address"),
        ("TCP4 192.0.2.1 192.0.2.2 1 02\r\n", "address"),
        ("TCP4 192.0.2.1 192.0.2.2 1 00\r\n", "address"),
        ("TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1 \r\n", "malformed"),
        ("TCP4 192.0.2.1  192.0.2.2 1 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "malformed"),
        ("TCP4\t192.0.2.1 192.0.2.2 1 2\r\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2\n", "malformed"),
        ("TCP4 192.0.2.1 192.0.2.2 1 2\r \r\n", "malformed"),
        (" TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "malformed"),
        ("UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "malformed"),
        ("tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "malformed"),
        ("UNKNOWNS\r\n", "malformed"),
        ("\r\n", "malformed"),
    ],
)
def test_an_invalid_header_of_version_1_is_refused_with_its_reason(line: str, reason: str) -> None:
    assert refused(b"PROXY " + line.encode()) == reason


@pytest.mark.parametrize(
    "data", [b"G", b"PROXX", b"PROXY\t", b"\r\n\r\n\0\r\nQUIT\r", b"\x16\x03\x01", b"\0", b"proxy "]
)
def test_bytes_that_begin_as_neither_version_are_refused_at_once(data: bytes) -> None:
    assert refused(data) == "not-proxy"


def test_an_ipv4_address_inside_ipv6_is_given_as_ipv4() -> None:
    expected = IPv4Address("TCP", "192.0.2.1", 1), IPv6Address("TCP", "2001:db8::1", 2)
    block = Ip6("::ffff:192.0.2.1").packed + Ip6("2001:db8::1").packed + struct.pack("!HH", 1, 2)
    for header in (b"PROXY TCP6 ::ffff:192.0.2.1 2001:DB8::1 1 2\r\n", v2(0x21, block)):
        result = parse(header)
        assert result is not None
        assert (result[0].source, result[0].destination) == expected


def test_the_addresses_of_a_datagram_header_are_udp() -> None:
    result = parse(v2(0x12, LOCALHOSTS))
    assert result is not None
    assert result[0].source == IPv4Address("UDP", "192.0.2.1", 40112)


@pytest.mark.parametrize(
    ("padded", "name"),
    [
        (b"/run/a.sock".ljust(108, b"\0"), b"/run/a.sock"),
        (b"/" * 108, b"/" * 108),
        (b"/run/a\0junk".ljust(108, b"\0"), b"/run/a"),
        (b"\0abstract".ljust(108, b"\0"), b"\0abstract"),
        (bytes(108), None),
    ],
)
def test_unix_addresses_are_paths_abstract_names_or_nothing(padded: bytes, name: bytes | None) -> None:
    result = parse(v2(0x31, padded + b"/srv".ljust(108, b"\0")) + b"rest")
    assert result is not None
    header, rest = result
    assert isinstance(header.source, UNIXAddress)
    assert isinstance(header.destination, UNIXAddress)
    assert (header.source.name, header.destination.name, rest) == (name, b"/srv", b"rest")


@pytest.mark.parametrize(
    "header",
    [
        v2(0x00, b"", command=0x20),
        v2(0xFF, b"anything", command=0x20),
        v2(0x11, LOCALHOSTS, command=0x20),
        v2(0x00, b""),
        v2(0x00, b"\x03\0\x04bad!"),
        v2(0x01, b""),
        v2(0x10, LOCALHOSTS),
    ],
)
def test_local_and_unspecified_headers_have_no_addresses_and_their_block_is_skipped(header: bytes) -> None:
    assert parse(header + b"rest") == (ProxyHeader(2), b"rest")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (v2(0x11, LOCALHOSTS, command=0x11), "command"),
        (v2(0x11, LOCALHOSTS, command=0x31), "command"),
        (v2(0x11, LOCALHOSTS, command=0x22), "command"),
        (SIGNATURE + b"\x2f", "command"),
        (v2(0x41, LOCALHOSTS), "family"),
        (v2(0x13, LOCALHOSTS), "family"),
        (v2(0x11, LOCALHOSTS[:-1]), "length"),
        (v2(0x21, bytes(35)), "length"),
        (v2(0x31, bytes(215)), "length"),
        (v2(0x11, b"", length=4097), "oversize"),
        (v2(0x11, b"", command=0x20, length=65535), "oversize"),
        (v2(0x11, LOCALHOSTS + b"\x04"), "tlv"),
        (v2(0x11, LOCALHOSTS + b"\x04\0"), "tlv"),
        (v2(0x11, LOCALHOSTS + b"\x04\0\x01"), "tlv"),
        (v2(0x11, LOCALHOSTS + b"\x03\0\x03abc"), "tlv"),
        (v2(0x11, LOCALHOSTS + b"\x03\0\x04abcd"), "checksum"),
        (with_checksum(with_checksum(v2(0x11, LOCALHOSTS))), "tlv"),
    ],
)
def test_an_invalid_header_of_version_2_is_refused_with_its_reason(header: bytes, reason: str) -> None:
    assert refused(header) == reason


def test_the_longest_header_of_version_2_is_accepted() -> None:
    filler = LONGEST_V2 - 16 - len(LOCALHOSTS) - 3
    header = v2(0x11, LOCALHOSTS + struct.pack("!BH", 4, filler) + bytes(filler))
    result = parse(header)
    assert len(header) == LONGEST_V2
    assert result is not None
    assert result[0].source == IPv4Address("TCP", "192.0.2.1", 40112)


@given(tlvs, st.integers(0), st.integers(0, 7))
def test_the_checksum_detects_every_changed_bit(tlv: bytes, place: int, bit: int) -> None:
    header = with_checksum(v2(0x11, LOCALHOSTS + tlv))
    assert parse(header) is not None
    changed = bytearray(header)
    changed[16 + place % 12] ^= 1 << bit
    assert refused(bytes(changed)) == "checksum"


def test_the_checksum_agrees_with_published_values() -> None:
    # RFC 3720 appendix B.4, and the check value of the catalogues.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"") == 0


def test_addresses_that_a_header_cannot_carry_are_refused() -> None:
    good = ("192.0.2.1", 1)
    for encode in (encode_v1, encode_v2):
        for bad in (("name.example", 1), ("192.0.2.1", 65536), ("192.0.2.1", -1), ("fe80::1%lo", 1)):
            with pytest.raises(ValueError, match=r"."):
                encode(bad, good)
            with pytest.raises(ValueError, match=r"."):
                encode(good, bad)


def test_encoded_headers_have_the_bytes_of_the_specification() -> None:
    source, destination = ("192.168.0.1", 56324), ("192.168.0.11", 443)
    assert encode_v1(source, destination) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    assert encode_v1(("2001:db8::1", 1), ("::1", 2)) == b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"
    assert encode_v2(source, destination) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a 21 11 000c c0a80001 c0a8000b dc04 01bb"
    )
