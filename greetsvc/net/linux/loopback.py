"""Whether the loopback interface is up: a container or a namespace may have it down."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

__all__ = ["loopback_is_down"]

_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1  # netdevice(7)


def loopback_is_down(host: str) -> bool:
    """Whether ``host`` is an address of the loopback interface, and that is down: nothing arrives there."""
    if sys.platform != "linux" or not (host.startswith("127.") or host in ("::1", "0.0.0.0", "::")):
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            flags: bytes = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s16x", b"lo"))
    except OSError:
        return False
    return not struct.unpack_from("16xH", flags)[0] & _IFF_UP
