"""What a stream's end means, without a stream."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost

from greetsvc import GreetFailed
from greetsvc.client.probe.heard import Heard
from greetsvc.client.probe.timeline import Progress
from greetsvc.client.target import parse
from greetsvc.visit import Address

ENCODINGS = ["utf-8", "utf-16", "utf-32-le", "latin-1", "cp037", "shift_jis", "utf-7", "gb18030"]


def heard(limit: int = 1000, now: float = 0.0) -> Heard:
    progress = Progress(parse("127.0.0.1"), 5, now=lambda: now)
    progress.peer = Address("127.0.0.1", 8088)
    progress.enter("connect")
    listening = Heard(progress, limit)
    listening.connected()
    return listening


@given(st.text(st.characters(codec="cp037"), min_size=1), st.sampled_from(ENCODINGS), st.lists(st.integers(0, 200)))
def test_pieces_cut_anywhere_make_the_same_text(text: str, encoding: str, cuts: list[int]) -> None:
    data = text.encode(encoding, "replace")
    listening = heard(limit=10000)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(edges):
        assert listening.take(data[start:end])
    closed = listening.ended(ConnectionDone(), ConnectionDone())
    greeting = listening.progress.greeted(bytes(listening.data), encoding, closed)
    assert greeting.data == data
    assert greeting.text == data.decode(encoding)
    assert greeting.closed == "fin"


@given(st.binary(min_size=1), st.sampled_from(ENCODINGS))
def test_any_bytes_are_shown_in_any_encoding(data: bytes, encoding: str) -> None:
    assert isinstance(heard().progress.greeted(data, encoding).text, str)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 60))
def test_no_more_than_the_bound_is_kept(pieces: list[bytes], limit: int) -> None:
    listening = heard(limit)
    within = [listening.take(piece) for piece in pieces]
    assert len(listening.data) <= limit + 1
    assert all(within) is (sum(map(len, pieces)) <= limit)
    if not all(within):
        with pytest.raises(GreetFailed) as caught:
            listening.ended(ConnectionDone(), ConnectionDone())
        assert caught.value.errno == errno.EMSGSIZE


def test_a_reset_that_comes_before_we_look_is_no_refusal() -> None:
    for number in (errno.ECONNRESET, errno.EPIPE):
        failed = heard().not_connected(ConnectError(number))
        assert (failed.errno, failed.phase, failed.closed) == (errno.ECONNRESET, "greet", "reset")


def test_a_connect_error_without_an_errno_is_eio() -> None:
    progress = Progress(parse("127.0.0.1"), 5)
    progress.enter("connect")
    failed = Heard(progress, 10).not_connected(ConnectError())
    assert (failed.errno, failed.phase) == (errno.EIO, "connect")


def test_a_reset_keeps_what_was_heard() -> None:
    listening = heard()
    listening.take(b"hi")
    assert listening.ended(ConnectionLost(), ConnectionLost()) == "reset"
    assert bytes(listening.data) == b"hi"
