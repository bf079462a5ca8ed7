"""What the client and the server agree on byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import wire
from greetsvc.net.linux.packets import Syn
from greetsvc.visit import Address
from greetsvc.wire import Datagram, PathRecord, Tcp, Tls, decode_record, encode_record

NONCE = "0123456789abcdef"


@given(st.integers(wire.MARKED_MINIMUM, 9000))
def test_a_marked_request_has_the_given_size_and_nonce(size: int) -> None:
    request = wire.request(NONCE, size)
    assert len(request) == size
    assert request.startswith(b"GREET/1 0123456789abcdef ")
    assert wire.nonce_of(request) == NONCE


@given(st.integers(0, wire.MARKED_MINIMUM - 1))
def test_a_request_too_short_for_the_mark_goes_unmarked(size: int) -> None:
    request = wire.request(NONCE, size)
    assert len(request) == size
    assert not request.startswith(wire.MARK)
    assert wire.nonce_of(request) is None


@pytest.mark.parametrize(
    "request_",
    [b"", b"GREET/1 ", b"GREET/1 0123", b"GREET/1 0123456789abcdeX .", b"GREET/1 0x123456789abcde .", b"x" * 40],
)
def test_a_request_without_a_nonce_has_none(request_: bytes) -> None:
    assert wire.nonce_of(request_) is None


# The path record.

WORDS = st.text(alphabet=st.characters(codec="ascii", exclude_characters="\\"), max_size=60)
NUMBERS = st.integers(0, 2**31)
ADDRESSES = st.builds(Address, WORDS, st.integers(0, 65535))
MAYBE = st.none() | NUMBERS
RECORDS = st.builds(
    PathRecord,
    instance=WORDS,
    nonce=st.none() | WORDS,
    transport=WORDS,
    you=ADDRESSES,
    me=ADDRESSES,
    via=st.none() | ADDRESSES,
    syn=st.none() | st.builds(Syn, NUMBERS, NUMBERS, NUMBERS, MAYBE, MAYBE, st.booleans(), st.booleans()),
    tcp=st.none() | st.builds(Tcp, NUMBERS, NUMBERS, NUMBERS),
    tls=st.none() | st.builds(Tls, WORDS, WORDS, st.none() | WORDS, st.none() | WORDS),
    datagram=st.none() | st.builds(Datagram, MAYBE, MAYBE, NUMBERS),
)
PLAIN = PathRecord(
    "1", None, "tcp", Address("192.0.2.1", 1), Address("192.0.2.2", 8088), None, None, None, None, None
)


@given(RECORDS)
def test_a_record_is_one_line_and_decodes_to_itself(made: PathRecord) -> None:
    line = encode_record(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode_record(line) == made


def test_the_keys_of_a_record_are_those_of_the_contract() -> None:
    assert list(json.loads(encode_record(PLAIN))) == [
        *("greetsvc", "instance", "nonce", "transport", "you", "me", "via", "syn", "tcp", "tls", "datagram")
    ]


def test_names_that_peers_choose_do_not_make_a_record_long() -> None:
    path = "/" + "\N{PILE OF POO}" * 100
    named = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", "\\" * 255, "h2")
    assert (
        len(encode_record(PathRecord("1" * 8, None, "unix", Address(path, 0), Address(path, 0), None, *[None] * 4)))
        < 1200
    )
    assert (
        len(encode_record(PathRecord("1" * 8, None, "tls", PLAIN.you, PLAIN.me, None, None, None, named, None)))
        < 1200
    )


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_no_record(line: bytes) -> None:
    assert decode_record(line) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("greetsvc", 2),
        ("greetsvc", True),
        ("instance", None),
        ("nonce", 7),
        ("you", None),
        ("you", {"host": "x", "port": 65536}),
        ("you", {"host": "x", "port": True}),
        ("you", {"host": "x"}),
        ("via", []),
        ("syn", {"ttl": "64"}),
        ("tcp", {"rtt_us": 2**32, "mss": 1, "retransmits": 0}),
        ("tcp", {"rtt_us": 1.5, "mss": 1, "retransmits": 0}),
        ("datagram", "x"),
    ],
)
def test_one_wrong_field_makes_it_no_record(name: str, value: Any) -> None:
    assert decode_record(json.dumps({**json.loads(encode_record(PLAIN)), name: value}).encode()) is None


def test_fields_of_a_later_version_are_ignored() -> None:
    found = {
        **json.loads(encode_record(PLAIN)),
        "more": 1,
        "tcp": {"rtt_us": 1, "mss": 2, "retransmits": 3, "cwnd": 10},
    }
    assert decode_record(json.dumps(found).encode()) == PathRecord(
        "1", None, "tcp", PLAIN.you, PLAIN.me, None, None, Tcp(1, 2, 3), None, None
    )


def test_deep_nesting_is_no_record() -> None:
    assert decode_record(b'{"greetsvc":' + b"[" * 100_000) is None
    assert wire.VERSION == 1
