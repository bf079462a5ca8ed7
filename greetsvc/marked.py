"""The marked UDP request, byte by byte: mark, nonce, fields, padding. Importing this needs no library.

A request that begins with the mark and is longer than its answer is always answered (the UDP rule, CVE-2024-2169): it
cannot amplify, and it cannot loop, because no answer begins with the mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = [
    "MARK",
    "MARKED_MINIMUM",
    "MAX_ANSWER",
    "MAX_FIELDS",
    "MAX_PAID_ANSWER",
    "MAX_REQUEST",
    "PADDING",
    "fields_of",
    "has_fields",
    "nonce_of",
    "request",
]

MARK = b"GREET/1 "
MARKED_MINIMUM = len(MARK) + 16 + 1
"""The shortest request that carries the mark, a nonce and the space behind it, in bytes."""

MAX_ANSWER = 1199
"""The longest answer in one datagram, in bytes: one byte shorter than the client's request by default.

A measured answer that is padded as its request wants may be longer.
"""

MAX_PAID_ANSWER = 512
"""The longest answer to a request without the mark, in bytes (RFC 865 asks for fewer than 512 characters)."""

MAX_REQUEST = 9216
"""The longest request datagram that is read, in bytes; a longer one is counted as oversize.

It fills the longest frame that is usual (jumbo frames have an MTU of 9000 to 9216).
"""

PADDING = b"."
"""What fills a request up to its size."""

MAX_FIELDS = 16
"""Fields of a request that are read; what comes behind them counts as padding."""

_MARK_AND_NONCE = re.compile(MARK + b"([0-9A-Fa-f]{16})")
_FIELD = re.compile(rb"([!-<>-~]{1,16})=([!-~]{0,64}) ")
_NO_FIELDS: Mapping[str, object] = {}


def request(nonce: str, size: int, fields: Mapping[str, object] = _NO_FIELDS) -> bytes:
    """A request of ``size`` bytes: mark, ``nonce`` of 16 hex digits, a space, ``key=value `` for each field, padding.

    A size below `MARKED_MINIMUM` has no room for mark and nonce: such a request is padding only, and unmarked. Where
    only the fields have no room, they are all left out.
    """
    if size < MARKED_MINIMUM:
        return PADDING * size
    start = MARK + nonce.encode("ascii") + b" "
    marked = start + "".join(f"{key}={value} " for key, value in fields.items()).encode("ascii")
    return (marked if len(marked) <= size else start).ljust(size, PADDING)


def nonce_of(request: bytes) -> str | None:
    """The nonce in a marked request, or None where there is none."""
    found = _MARK_AND_NONCE.match(request)
    return found and found[1].decode("ascii")


def has_fields(request: bytes) -> bool:
    """Whether a marked request may carry fields: what stands behind the nonce and a space is no padding of ours."""
    return request[MARKED_MINIMUM : MARKED_MINIMUM + 1] not in {b"", PADDING} and request.startswith(MARK)


def fields_of(request: bytes) -> dict[str, str]:
    """The fields of a marked request, known or not; empty where there are none.

    A key has up to 16 printable ASCII characters other than ``=``, a value up to 64. What has another form ends the
    fields: it is padding. Of two fields with one key the first counts.
    """
    found: dict[str, str] = {}
    if _MARK_AND_NONCE.match(request) and request[MARKED_MINIMUM - 1 : MARKED_MINIMUM] == b" ":
        at = MARKED_MINIMUM
        for _ in range(MAX_FIELDS):
            field = _FIELD.match(request, at)
            if field is None:
                break
            found.setdefault(field[1].decode("ascii"), field[2].decode("ascii"))
            at = field.end()
    return found
