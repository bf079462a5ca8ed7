"""What the client and the server agree on byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve
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


KEYS = st.from_regex(r"[!-<>-~]{1,16}", fullmatch=True)
VALUES = st.from_regex(r"[!-~]{0,64}", fullmatch=True)
ASKED = {"s": "fedcba9876543210", "n": "7", "a": "0", "w": "count"}


@given(st.dictionaries(KEYS, VALUES, max_size=wire.MAX_FIELDS), st.integers(1500, 2000))
def test_the_fields_of_a_request_are_read_as_they_were_written(fields: dict[str, str], size: int) -> None:
    request = wire.request(NONCE, size, fields)
    assert len(request) == size
    assert wire.nonce_of(request) == NONCE
    assert wire.fields_of(request) == fields


def test_fields_without_room_are_left_out() -> None:
    whole = len(f"GREET/1 {NONCE} ") + sum(len(f"{key}={value} ") for key, value in ASKED.items())
    assert wire.fields_of(wire.request(NONCE, whole, ASKED)) == ASKED
    assert wire.request(NONCE, whole - 1, ASKED) == wire.request(NONCE, whole - 1)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("....", {}),
        ("s=1", {}),  # a value ends with a space: this one may have been cut
        ("s=1 ", {"s": "1"}),
        ("s=1 s=2 n= .", {"s": "1", "n": ""}),
        ("s=1  n=2 ", {"s": "1"}),
        ("s=1 later-Field=2=3 n=3 ", {"s": "1", "later-Field": "2=3", "n": "3"}),
        ("s=1 =2 n=3 ", {"s": "1"}),
        ("s=1 n=\xe9 ", {"s": "1"}),
        (f"s={'x' * 65} ", {}),
        (f"{'k' * 17}=1 ", {}),
        ("".join(f"k{number}=1 " for number in range(99)), {f"k{number}": "1" for number in range(wire.MAX_FIELDS)}),
    ],
)
def test_fields_have_bounds(text: str, fields: dict[str, str]) -> None:
    assert wire.fields_of(f"GREET/1 {NONCE} {text}".encode()) == fields
    assert wire.fields_of(f"GREET/1 {NONCE}.{text}".encode()) == {}
    assert wire.fields_of(f"greet/1 {NONCE} {text}".encode()) == {}


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_of_a_stranger_break_the_reading_of_fields(data: bytes, marked: bool) -> None:
    data = f"GREET/1 {NONCE} ".encode() + data if marked else data
    assert len(wire.fields_of(data)) <= wire.MAX_FIELDS
    wire.count_of(data)


def test_a_request_for_a_measured_answer_is_read_in_any_order_of_its_fields() -> None:
    session = b"fedcba9876543210"
    wanted = NONCE.encode() + b" s=" + session + b" n=7 a=0", session
    assert wire.count_of(wire.request(NONCE, 200, ASKED)) == wanted
    assert wire.count_of(wire.request(NONCE, 200, {"later": 1, **dict(reversed(ASKED.items()))})) == wanted


@pytest.mark.parametrize(
    "change",
    [{"w": "path"}, {"w": ""}, {"s": "1"}, {"s": "x" * 16}, {"n": "-1"}, {"n": "1" * 11}, {"a": ""}, {"a": "1000"}],
)
def test_a_request_with_a_bad_field_wants_no_measured_answer(change: dict[str, str]) -> None:
    assert wire.count_of(wire.request(NONCE, 200, ASKED | change)) is None


def test_a_request_may_leave_out_its_number_and_attempt_but_not_its_session() -> None:
    def without(key: str) -> bytes:
        return wire.request(NONCE, 200, {name: ASKED[name] for name in ASKED if name != key})

    session = b"fedcba9876543210"
    assert wire.count_of(without("n")) == (NONCE.encode() + b" s=" + session + b" n=0 a=0", session)
    assert wire.count_of(without("a")) == (NONCE.encode() + b" s=" + session + b" n=7 a=0", session)
    assert wire.count_of(without("s")) is None
    assert wire.count_of(without("w")) is None


HEX = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@given(HEX, st.integers(0, 10**11), st.integers(0, 1100), st.sampled_from(["count", "path", "counts", ""]))
def test_both_ways_to_read_a_request_for_a_measured_answer_agree(session: str, n: int, a: int, wanted: str) -> None:
    request = wire.request(NONCE, 200, {"s": session, "n": n, "a": a, "w": wanted})
    found = wire.COUNTED.match(request)
    assert (found and found.groups()) == wire.count_of(request)
    padded = wire.request(NONCE, 200, {"s": session, "n": n, "a": a, "w": wanted, "p": 100})
    assert wire.COUNTED.match(padded) is None
    assert wire.count_of(padded) is None


BYTES = st.none() | st.integers(0, 255)
TIMES = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, wire.WRAP - 1)


@given(HEX, HEX, st.integers(0, 10**10 - 1), st.integers(0, 999), COUNTS, COUNTS, TIMES, TIMES, BYTES, BYTES)
def test_a_measured_answer_is_one_short_line_and_decodes_to_itself(
    nonce: str,
    session: str,
    number: int,
    attempt: int,
    seen: int,
    seq: int,
    rx: int,
    tx: int,
    ttl: int | None,
    tos: int | None,
) -> None:
    repeated = f"{nonce} s={session} n={number} a={attempt}".encode()
    line = wire.encode_measured(repeated, seen, seq, rx, tx, ttl, tos, wire.MAX_REQUEST)
    assert len(line) <= wire.MAX_MEASURED
    assert line.startswith(f"greeted 1 {nonce} s={session} n={number} a={attempt} seen=".encode())
    assert line.endswith(b"\n")
    assert wire.decode_measured(line) == wire.Measured(
        nonce, session, number, attempt, seen, seq, rx, tx, ttl, tos, wire.MAX_REQUEST
    )


LINE = (
    b"greeted 1 0123456789abcdef s=fedcba9876543210 n=7 a=0 seen=1 seq=2 rx=3 tx=4 ttl=64 tos=0 size=1200 later=1\r\n"
)


@given(st.binary(max_size=200) | st.integers(0, len(LINE) - 1).map(lambda end: LINE[: min(end, 95)]))
def test_anything_else_is_no_measured_answer(line: bytes) -> None:
    assert wire.decode_measured(line) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((b"ttl=64", b"ttl=256"), (b"tos=0", b"tos=999"), (b"seen=1", b"seen=1000000"), (b"rx=3", b"rx=-3")),
        *(
            (b" n=7", b""),
            (b"greeted 1", b"greeted 2"),
            (b"size=1200", b"size="),
            (b"later=1", b"later=" + b"x" * 99),
        ),
    ],
)
def test_one_bad_field_makes_it_no_measured_answer(old: bytes, new: bytes) -> None:
    assert wire.decode_measured(LINE) is not None
    assert wire.decode_measured(LINE.replace(old, new)) is None


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
    measured=st.none() | WORDS,
    datagram=st.none() | st.builds(Datagram, ttl=MAYBE, dscp=MAYBE, ecn=MAYBE, size=NUMBERS),
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


def test_an_older_server_does_not_tell_ecn() -> None:
    found = {**json.loads(encode_record(PLAIN)), "datagram": {"ttl": 64, "dscp": 0, "size": 1200}}
    record = decode_record(json.dumps(found).encode())
    assert record is not None
    assert record.datagram == Datagram(ttl=64, dscp=0, ecn=None, size=1200)


def test_a_path_record_may_hold_a_measured_answer_to_the_same_request() -> None:
    line = LINE.decode().rstrip()
    held = evolve(PLAIN, nonce=NONCE, measured=line)
    assert wire.measured_in(encode_record(held)) == wire.decode_measured(LINE) == wire.measured_in(LINE)
    for nonce, measured in (("f" * 16, line), (NONCE, "x"), (NONCE, "\N{BULLET}"), (NONCE, None)):
        assert wire.measured_in(encode_record(evolve(held, nonce=nonce, measured=measured))) is None


def test_deep_nesting_is_no_record() -> None:
    assert decode_record(b'{"greetsvc":' + b"[" * 100_000) is None
    assert wire.VERSION == 1
