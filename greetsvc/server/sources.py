"""Where a visitor comes from, as the limits see it: a prefix of the address, hashed with a key into a fixed table.

Tables have a fixed size and nothing is evicted, so a walk over forged addresses grows no memory and drives
nobody out; sources that collide share an entry, and without the key nobody can choose to collide.
"""

from __future__ import annotations

import secrets
import socket

__all__ = ["Hasher", "is_loopback", "prefix"]


def is_loopback(host: str) -> bool:
    """Whether this plain address is one of the machine's own loopback addresses."""
    return host.startswith("127.") or host == "::1"


def prefix(host: str, v4_bits: int, v6_bits: int) -> bytes:
    """The leading bits of a plain literal address (whole bytes), with its version in front.

    Raises `ValueError` for what is no literal address.
    """
    try:
        if ":" in host:
            return b"6" + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[: v6_bits // 8]
        return b"4" + socket.inet_pton(socket.AF_INET, host)[: v4_bits // 8]
    except OSError as error:
        raise ValueError(f"{host!r} is no address") from error


class Hasher:
    """Maps bytes to an index below ``size``, in a way that nobody outside this process can foresee.

    Python's hash of bytes is a keyed one (SipHash, PEP 456); a secret of our own goes first, as that key can be set
    from outside (``PYTHONHASHSEED``).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._key = secrets.token_bytes(16)

    def index(self, data: bytes) -> int:
        """The entry for ``data``."""
        return hash(self._key + data) % self.size
