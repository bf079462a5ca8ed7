"""Splits PEM text into its blocks, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

__all__ = ["Block", "pem_blocks"]

_BEGIN, _END, _DASHES = b"-----BEGIN", b"-----END", b"-----"
_LONGEST_LABEL = 64


@frozen
class Block:
    """One block of PEM (RFC 7468): its label, such as ``CERTIFICATE``, and its text with both boundary lines."""

    label: str
    text: bytes
    number: int
    line: int

    @property
    def place(self) -> str:
        """Its number and line, for an error message."""
        return f"block {self.number} (line {self.line})"


def pem_blocks(data: bytes) -> Iterator[Block]:
    """The blocks, in order; text around them is ignored. The time is linear in the size.

    :raises ValueError: at a block that does not end before the next one begins, or that has no label.
    """
    number, line, counted = 0, 1, 0
    begin = data.find(_BEGIN)
    while begin >= 0:
        number += 1
        line += data.count(b"\n", counted, begin)
        counted = begin
        following = data.find(_BEGIN, begin + len(_BEGIN))
        limit = len(data) if following < 0 else following
        after = begin + len(_BEGIN)
        close = data.find(_DASHES, after, min(limit, after + _LONGEST_LABEL))
        label = data[after : max(close, after)]
        boundary = _END + label + _DASHES
        end = data.find(boundary, close, limit)
        if not label.strip() or end < 0:
            raise ValueError(f"block {number} (line {line}) has no end")
        text = data[begin : end + len(boundary)]
        yield Block(label.decode("ascii", "backslashreplace").strip(), text, number, line)
        begin = following
