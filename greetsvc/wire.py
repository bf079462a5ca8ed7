"""What the server and the client must agree on byte by byte: the marked UDP request.

A request that begins with the mark and is longer than its answer can neither amplify nor loop, because no
answerer sends the mark; so it is always answered (the UDP rule, CVE-2024-2169).
"""

from __future__ import annotations

__all__ = [
    "MARK",
    "MARKED_MINIMUM",
    "MAX_ANSWER",
    "MAX_PAID_ANSWER",
    "MAX_REQUEST",
    "nonce_of",
    "request",
]

MARK = b"GREET/1 "
NONCE_DIGITS = 16
MARKED_MINIMUM = len(MARK) + NONCE_DIGITS + 1
"""The shortest request that carries the mark, a nonce and the space behind it, in bytes."""

MAX_ANSWER = 1199
"""The longest answer in one datagram, in bytes: shorter than the request that the client sends unasked."""

MAX_PAID_ANSWER = 512
"""The longest answer to a request without the mark, in bytes (RFC 865 asks for fewer than 512 characters)."""

MAX_REQUEST = 8192
"""The longest request datagram that is read, in bytes; a longer one is counted as oversize."""


def request(nonce: str, size: int) -> bytes:
    """A request of ``size`` bytes: mark, nonce of 16 hex digits, a space and padding.

    A size below `MARKED_MINIMUM` leaves no room for the mark; such a request is padding alone, and unmarked.
    """
    if size < MARKED_MINIMUM:
        return b"." * size
    return (MARK + nonce.encode("ascii") + b" ").ljust(size, b".")


def nonce_of(request: bytes) -> str | None:
    """The nonce of a marked request, or None where there is none."""
    digits = request[len(MARK) : MARKED_MINIMUM - 1]
    if not request.startswith(MARK) or len(digits) != NONCE_DIGITS:
        return None
    try:
        int(digits, 16)
    except ValueError:
        return None
    return digits.decode("ascii")
