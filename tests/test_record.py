"""The path record: what the server says and the client believes."""

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
def test_what_is_encoded_is_one_line_and_decodes_to_itself(made: PathRecord) -> None:
    line = encode_record(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode_record(line) == made


def test_the_keys_are_those_of_the_contract() -> None:
    assert list(json.loads(encode_record(PLAIN))) == [
        *("greetsvc", "instance", "nonce", "transport", "you", "me", "via", "syn", "tcp", "tls", "datagram")
    ]


def test_names_that_peers_choose_do_not_make_it_long() -> None:
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
def test_whatever_else_a_far_end_says_is_no_record(line: bytes) -> None:
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
def test_one_field_that_is_not_as_agreed_spoils_it(name: str, value: Any) -> None:
    assert decode_record(json.dumps({**json.loads(encode_record(PLAIN)), name: value}).encode()) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    found = {
        **json.loads(encode_record(PLAIN)),
        "more": 1,
        "tcp": {"rtt_us": 1, "mss": 2, "retransmits": 3, "cwnd": 10},
    }
    assert decode_record(json.dumps(found).encode()) == PathRecord(
        "1", None, "tcp", PLAIN.you, PLAIN.me, None, None, Tcp(1, 2, 3), None, None
    )


def test_nesting_without_end_is_no_record() -> None:
    assert decode_record(b'{"greetsvc":' + b"[" * 100_000) is None
    assert wire.VERSION == 1
