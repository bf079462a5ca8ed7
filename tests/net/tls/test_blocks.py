"""PEM text in blocks: each has its place, and an error names it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.net.tls.blocks import Block, pem_blocks

ONE = b"-----BEGIN ONE-----\nMQ==\n-----END ONE-----"
TWO = b"-----BEGIN TWO MORE-----\r\nMg==\r\n-----END TWO MORE-----"


def test_text_around_the_blocks_is_ignored() -> None:
    assert list(pem_blocks(b"a\nb\n" + ONE + b"\nc\n" + TWO + b"d")) == [
        Block("ONE", ONE, 1, 3),
        Block("TWO MORE", TWO, 2, 7),
    ]
    assert [block.place for block in pem_blocks(ONE + TWO)] == ["block 1 (line 1)", "block 2 (line 3)"]
    assert list(pem_blocks(b"")) == list(pem_blocks(b"nothing here\n-----END ONE-----")) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ONE[:-1], r"block 1 \(line 1\) has no end"),
        (ONE + b"\n" + TWO[:-9], r"block 2 \(line 4\) has no end"),
        (ONE[:-9] + b"\n" + TWO, r"block 1 \(line 1\) has no end"),
        (b"-----BEGIN ONE-----\n-----END TWO-----", "block 1"),
        (b"-----BEGIN ------\n-----END ------", "block 1"),
        (b"-----BEGIN " + b"X" * 100 + b"-----\n-----END " + b"X" * 100 + b"-----", "block 1"),
        (b"\n-----BEGIN ", r"block 1 \(line 2\)"),
        (ONE + b"\n-----BEGIN", r"block 2 \(line 4\)"),
    ],
)
def test_a_block_that_does_not_end_is_named(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(pem_blocks(data))


class Counted(bytes):
    """Bytes that count how many of them are searched."""

    searched = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        found = super().find(sub, start, len(self) if end is None else end)
        Counted.searched += (found if found >= 0 else len(self) if end is None else end) - start
        return found

    def count(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        Counted.searched += (len(self) if end is None else end) - start
        return super().count(sub, start, len(self) if end is None else end)


@pytest.mark.parametrize("unit", [ONE, ONE + b"\n" * 30, b"-----BEGIN X-----\n-----END X-----x"])
def test_the_work_is_linear_in_the_size(unit: bytes) -> None:
    Counted.searched = 0
    data = Counted(unit * 2000)
    assert len(list(pem_blocks(data))) == 2000
    assert Counted.searched < 8 * len(data)


def test_begin_lines_without_end_stop_at_the_first() -> None:
    Counted.searched = 0
    with pytest.raises(ValueError, match="block 1"):
        list(pem_blocks(Counted(b"-----BEGIN CERTIFICATE-----\n" * 20_000)))
    assert Counted.searched < 1000


@given(st.lists(st.sampled_from([ONE, TWO, b"\n", b"x", b"-----", b"-----BEGIN ", b"-----END ONE-----", b"\r\n"])))
def test_any_text_is_blocks_or_an_error(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        found = list(pem_blocks(data))
    except ValueError:
        return
    assert [block.text for block in found] == [
        part for part in parts if part in (ONE, TWO)
    ] or b"-----BEGIN " in parts
    assert [block.number for block in found] == list(range(1, len(found) + 1))
