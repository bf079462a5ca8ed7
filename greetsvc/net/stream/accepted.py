"""What `accept` gave: a descriptor and a name, as the socket and the address that Twisted speaks of."""

from __future__ import annotations

import socket
import sys
from struct import Struct

__all__ = ["counts_queue", "queue_length", "whole"]

_UNACKED = Struct("24xI")
"""``tcpi_unacked`` in the kernel's ``struct tcp_info`` (linux/tcp.h)."""


def counts_queue(listener: socket.socket) -> bool:
    """Whether `queue_length` knows about this listener."""
    try:
        return sys.platform == "linux" and queue_length(listener) >= 0
    except OSError:
        return False


def queue_length(listener: socket.socket) -> int:
    """How many connections wait to be accepted.

    To ask costs a sixth of what `accept` costs in vain, which makes a file before it finds that there is nothing
    to put into it. Linux keeps the number where connections have their unacknowledged segments.
    """
    length: int = _UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))[0]
    return length


class _Whole(socket.socket):
    """Is closed when it is told to, whatever was made of it meanwhile."""

    close = socket.SocketType.close


def whole(sock: socket.SocketType) -> socket.socket:
    """``sock`` as the class that Python offers; an accepted one is bare, which takes a third of the time to make."""
    if isinstance(sock, socket.socket):
        return sock
    timeout = sock.gettimeout()
    made = _Whole(sock.family, sock.type, sock.proto, sock.detach())
    made.settimeout(timeout)
    return made
