"""A ClientHello is passed on when it is whole, however it is cut; what is no ClientHello at once."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greetsvc.net.tls.hello import LONGEST, HelloBuffer, HelloTooLong


def hello(size: int) -> bytes:
    """A handshake message of this size that says it is a ClientHello."""
    return b"\1" + (size - 4).to_bytes(3, "big") + bytes(size - 4)


def records(message: bytes, *sizes: int) -> bytes:
    """The message in records of these sizes; the last one has the rest."""
    data = b""
    for size in (*sizes, len(message)):
        part, message = message[:size], message[size:]
        data += b"\x16\3\1" + len(part).to_bytes(2, "big") + part if part else b""
    return data


def passed_on(data: bytes, cuts: list[int]) -> tuple[bytes, int] | None:
    """What is passed on, and after how many bytes; None for nothing."""
    buffer = HelloBuffer()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if whole := buffer.feed(data[begin:end]):
            return whole, end
    return None


@given(
    st.integers(4, 600),
    st.lists(st.integers(1, 100), max_size=8),
    st.lists(st.integers(0, 700), max_size=6),
    st.binary(max_size=9),
)
@example(4, [1, 1, 1], [], b"")
@example(300, [2], [1, 4, 5, 6, 7], b"\x15")
def test_a_hello_is_passed_on_when_its_last_byte_is_there(
    size: int, sizes: list[int], cuts: list[int], after: bytes
) -> None:
    data = records(hello(size), *sizes)
    cuts = sorted(min(cut, len(data)) for cut in cuts)
    found = passed_on(data, cuts)
    assert found == (data, len(data))
    assert passed_on(data[:-1], [cut for cut in cuts if cut < len(data)]) is None
    assert HelloBuffer().feed(data + after) == data + after


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        bytes.fromhex("15030300020100"),
        bytes.fromhex("1403030001"),
        bytes.fromhex("1703030000"),
        bytes.fromhex("1603010000"),
        bytes.fromhex("16030100040200ffff"),
        bytes.fromhex("80" * 5),
        records(hello(100), 30)[:35] + b"\x17\3\3\0\1",
    ],
)
def test_what_is_no_hello_is_passed_on_at_once(data: bytes) -> None:
    assert HelloBuffer().feed(data) == data
    assert passed_on(data, list(range(1, len(data)))) is not None


@pytest.mark.parametrize("cut", [1, 2, 9])
@pytest.mark.parametrize("size", [LONGEST + 1, 130_000, 2**24 + 3])
def test_a_hello_that_says_it_is_too_long_is_refused_at_its_fourth_byte(size: int, cut: int) -> None:
    header = b"\1" + (size - 4).to_bytes(3, "big")
    data = records(header, *[cut] * 4)
    buffer = HelloBuffer()
    assert not buffer.feed(data[:-1])
    with pytest.raises(HelloTooLong):
        buffer.feed(data[-1:])
    assert HelloBuffer().feed(records(hello(LONGEST))[:-1]) == b""


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\x16\3\1\0\5", b"\1\0\0\x40"]), max_size=20))
def test_no_bytes_are_lost_or_added(pieces: list[bytes]) -> None:
    buffer, fed = HelloBuffer(), b""
    for piece in pieces:
        fed += piece
        try:
            if whole := buffer.feed(piece):
                assert whole == fed
                return
        except HelloTooLong:
            return
