"""Where a visitor comes from, as the limits see it: a prefix of the address, hashed with a key into a fixed table.

Tables have a fixed size and nothing is evicted, so a walk over forged addresses grows no memory and drives
nobody out; sources that collide share an entry, and without the key nobody can choose to collide.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

__all__ = ["Hasher", "is_loopback", "prefix"]


def is_loopback(host: str) -> bool:
    """Whether this plain address is one of the machine's own loopback addresses."""
    return host.startswith("127.") or host == "::1"


def prefix(host: str, v4_bits: int, v6_bits: int) -> bytes:
    """The leading bits of a plain literal address (whole bytes), with its family's length in front."""
    address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    bits = v4_bits if address.version == 4 else v6_bits
    return bytes((address.version,)) + address.packed[: bits // 8]


class Hasher:
    """Maps bytes to an index below ``size``, in a way that nobody outside this process can foresee."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._key = secrets.token_bytes(16)

    def index(self, data: bytes) -> int:
        """The entry for ``data``."""
        return int.from_bytes(blake2b(data, digest_size=8, key=self._key).digest(), "big") % self.size
