"""Accepted sockets: how many wait to be accepted, how to send on them, and how to make one a Python `socket`."""

from __future__ import annotations

import socket
import sys
from struct import Struct

__all__ = ["SEND", "SEND_LAST", "counts_queue", "queue_length", "whole"]

SEND = socket.MSG_DONTWAIT
"""The flags of `send`. MSG_DONTWAIT, as the descriptor stays a blocking one until the reactor has to know it."""

SEND_LAST = SEND
"""The flags of the `send` that is followed by `shutdown`.

MSG_MORE (Linux, send(2)) holds the last segment back, and the FIN of the `shutdown` goes out in it: one segment less
for each greeting. If no `shutdown` followed, the data would wait for up to 200 ms (TCP_CORK, tcp(7)).
"""
if sys.platform == "linux":
    SEND_LAST |= socket.MSG_MORE

_UNACKED = Struct("24xI")
"""``tcpi_unacked`` in the kernel's ``struct tcp_info`` (linux/tcp.h)."""


def counts_queue(listener: socket.socket) -> bool:
    """Whether `queue_length` works for this listener: on Linux, for TCP."""
    try:
        return sys.platform == "linux" and queue_length(listener) >= 0
    except OSError:
        return False


def queue_length(listener: socket.socket) -> int:
    """How many connections wait to be accepted.

    Linux keeps the number where a connection has its unacknowledged segments. This call costs a sixth of an `accept`
    that fails, which makes a file before it finds that there is no connection to put into it.
    """
    length: int = _UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))[0]
    return length


class _Whole(socket.socket):
    """A `socket.socket` that `close` closes even if a file was made of it, which Python's own leaves open."""

    close = socket.SocketType.close


def whole(sock: socket.SocketType) -> socket.socket:
    """``sock`` as a `socket.socket`, which takes over its descriptor.

    The listener makes bare `socket.SocketType` objects, in a third of the time.
    """
    if isinstance(sock, socket.socket):
        return sock
    timeout = sock.gettimeout()
    made = _Whole(sock.family, sock.type, sock.proto, sock.detach())
    made.settimeout(timeout)
    return made
