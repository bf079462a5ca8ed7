"""The source of a visitor, as limits count it: a prefix of its address, hashed with a key into a table of fixed size.

Nothing is evicted, so forged addresses neither use up memory nor push other sources out. Sources that collide share
an entry; without the key nobody can choose to collide.
"""

from __future__ import annotations

import secrets
import socket

__all__ = ["Hasher", "is_loopback", "prefix"]


def is_loopback(host: str) -> bool:
    """Whether this literal address (no IPv4 mapped into IPv6) is a loopback address."""
    return host.startswith("127.") or host == "::1"


def prefix(host: str, v4_bits: int, v6_bits: int) -> bytes:
    """The leading bits of a literal address (multiples of 8), after a byte that names its version.

    Raises `ValueError` where ``host`` is not a literal address.
    """
    try:
        if ":" in host:
            return b"6" + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[: v6_bits // 8]
        return b"4" + socket.inet_pton(socket.AF_INET, host)[: v4_bits // 8]
    except OSError as error:
        raise ValueError(f"{host!r} is not an IP address") from error


class Hasher:
    """Maps bytes to an index below ``size`` that nobody outside this process can predict.

    Python's hash of bytes is keyed (SipHash, PEP 456), but its key can be set from outside (``PYTHONHASHSEED``): so a
    secret of our own goes first.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._key = secrets.token_bytes(16)

    def index(self, data: bytes) -> int:
        """The index for ``data``."""
        return hash(self._key + data) % self._size
