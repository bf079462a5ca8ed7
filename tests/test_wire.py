"""What the client and the server agree on byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import wire

NONCE = "0123456789abcdef"


@given(st.integers(wire.MARKED_MINIMUM, 9000))
def test_a_marked_request_has_the_size_asked_for_and_gives_its_nonce_back(size: int) -> None:
    request = wire.request(NONCE, size)
    assert len(request) == size
    assert request.startswith(b"GREET/1 0123456789abcdef ")
    assert wire.nonce_of(request) == NONCE


@given(st.integers(0, wire.MARKED_MINIMUM - 1))
def test_a_request_too_short_for_the_mark_goes_unmarked(size: int) -> None:
    request = wire.request(NONCE, size)
    assert len(request) == size
    assert not wire.is_free(request, b"")
    assert wire.nonce_of(request) is None


@pytest.mark.parametrize(("answer", "free"), [(b"x" * 63, True), (b"x" * 64, False), (b"x" * 65, False)])
def test_only_a_request_longer_than_its_answer_is_free(answer: bytes, free: bool) -> None:
    assert wire.is_free(wire.request(NONCE, 64), answer) is free


def test_a_long_request_without_the_mark_is_not_free() -> None:
    assert not wire.is_free(b"x" * 1200, b"hello")


@pytest.mark.parametrize("request_", [b"", b"GREET/1 ", b"GREET/1 0123", b"GREET/1 0123456789abcdeX .", b"x" * 40])
def test_what_carries_no_nonce_gives_none(request_: bytes) -> None:
    assert wire.nonce_of(request_) is None
