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
    assert not request.startswith(wire.MARK)
    assert wire.nonce_of(request) is None


@pytest.mark.parametrize("request_", [b"", b"GREET/1 ", b"GREET/1 0123", b"GREET/1 0123456789abcdeX .", b"x" * 40])
def test_what_carries_no_nonce_gives_none(request_: bytes) -> None:
    assert wire.nonce_of(request_) is None
