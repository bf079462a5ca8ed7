"""What a stream's end means, without a stream."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost

from greetsvc import GreetFailed
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.stream.state import StreamState
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.target import parse
from greetsvc.visit import Address

ENCODINGS = ["utf-8", "utf-16", "utf-32-le", "latin-1", "cp037", "shift_jis", "utf-7", "gb18030"]


def connected(limit: int = 1000, encoding: str = "utf-8") -> StreamState:
    timeline = Timeline(parse("127.0.0.1"), ProbeOptions(limit=limit, encoding=encoding), now=lambda: 0.0)
    timeline.peer = Address("127.0.0.1", 8088)
    timeline.enter("connect")
    state = StreamState(timeline)
    state.connected()
    return state


@given(st.text(st.characters(codec="cp037"), min_size=1), st.sampled_from(ENCODINGS), st.lists(st.integers(0, 200)))
def test_pieces_cut_anywhere_make_the_same_text(text: str, encoding: str, cuts: list[int]) -> None:
    data = text.encode(encoding, "replace")
    state = connected(10000, encoding)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(edges):
        assert state.received(data[start:end])
    closed = state.ended(ConnectionDone(), ConnectionDone())
    greeting = state.timeline.greeted(bytes(state.data), closed)
    assert greeting.data == data
    assert greeting.text == data.decode(encoding)
    assert greeting.closed == "fin"


@given(st.binary(min_size=1), st.sampled_from(ENCODINGS))
def test_any_bytes_are_shown_in_any_encoding(data: bytes, encoding: str) -> None:
    assert isinstance(connected(encoding=encoding).timeline.greeted(data).text, str)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 60))
def test_no_more_than_the_limit_is_kept(pieces: list[bytes], limit: int) -> None:
    state = connected(limit)
    within = [state.received(piece) for piece in pieces]
    assert len(state.data) <= limit + 1
    assert all(within) is (sum(map(len, pieces)) <= limit)
    if not all(within):
        with pytest.raises(GreetFailed) as caught:
            state.ended(ConnectionDone(), ConnectionDone())
        assert caught.value.errno == errno.EMSGSIZE


def test_a_reset_that_comes_before_we_look_is_not_a_refusal() -> None:
    for number in (errno.ECONNRESET, errno.EPIPE):
        timeline = Timeline(parse("127.0.0.1"), ProbeOptions())
        timeline.enter("connect")
        failed = StreamState(timeline).not_connected(ConnectError(number))
        assert (failed.errno, failed.phase, failed.closed) == (errno.ECONNRESET, "greet", "reset")


def test_a_connect_error_without_an_errno_is_eio() -> None:
    timeline = Timeline(parse("127.0.0.1"), ProbeOptions())
    timeline.enter("connect")
    failed = StreamState(timeline).not_connected(ConnectError())
    assert (failed.errno, failed.phase) == (errno.EIO, "connect")


def test_a_reset_keeps_what_was_received() -> None:
    state = connected()
    state.received(b"hi")
    assert state.ended(ConnectionLost(), ConnectionLost()) == "reset"
    assert bytes(state.data) == b"hi"
