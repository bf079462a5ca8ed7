"""When the kernel received a datagram (SO_TIMESTAMPNS, socket(7)). Importing this needs no library."""

from __future__ import annotations

import socket
import struct
import sys

__all__ = ["ANCILLARY", "ask_for_time", "time_in"]

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h, as on x86 and arm; also the kind of the message that it gives

_TIME_STAMP = struct.Struct("@ll")
"""Seconds and nanoseconds of CLOCK_REALTIME: struct timespec."""

ANCILLARY = socket.CMSG_SPACE(_TIME_STAMP.size)
"""Room for the message, in bytes."""


def ask_for_time(sock: socket.SocketType, *, wanted: bool = True) -> None:
    """Have the kernel deliver a time stamp with each datagram, as ancillary data; or no longer. Linux only."""
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, wanted)


def time_in(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The time stamp among a datagram's ancillary data, in nanoseconds; None where there is none."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) == _TIME_STAMP.size:
            seconds, nanoseconds = _TIME_STAMP.unpack(value)
            return int(seconds) * 10**9 + int(nanoseconds)
    return None
