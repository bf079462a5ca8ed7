"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

Most of the cost of a small datagram is the system call; a batch of them needs one. This module holds the C structures
only; `greetsvc.net.datagram.batched` knows what the bytes in them mean.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Any

__all__ = ["AVAILABLE", "MESSAGES", "OWN", "WORD", "Messages"]

MESSAGES = 64
"""Datagrams in one call."""

NAME = 28
"""Bytes for each address: ``struct sockaddr_in6`` is the longest."""

WORD = 8
"""Bytes of a word, of which `Messages.heads` has the first of each datagram."""

CONTROL = 128
"""Bytes for each datagram's ancillary data: a time stamp, a packet info of either family, TTL, traffic class."""

OWN = 192
"""The longest answer that `Messages.send_own` sends, in bytes."""


class _Part(ctypes.Structure):
    """``struct iovec``, readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """``struct msghdr``, recvmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """``struct mmsghdr``, recvmmsg(2)."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint32))


def _calls() -> tuple[Any, Any] | None:
    if sys.platform != "linux":
        return None
    # PyDLL, not CDLL: it keeps the interpreter lock during the call. The socket is non-blocking, so the calls return
    # at once, and to release the lock and take it again would cost more than other threads could gain.
    # use_errno: ctypes saves errno right after the call, before the interpreter can change it.
    library = ctypes.PyDLL(None, use_errno=True)
    try:
        return library.recvmmsg, library.sendmmsg
    except AttributeError:
        return None


_CALLS = _calls()

AVAILABLE = _CALLS is not None
"""Whether this platform has the calls."""


class Messages:
    """Buffers for a batch of datagrams up to ``longest`` bytes, and for one answer that goes to many sources.

    After `receive`, datagram ``i`` lies in ``data`` (and its ``view``) at ``i * stride`` and is ``lengths[i]`` bytes
    long; its sender is in ``names`` at ``i * NAME``, and its ancillary data in ``controls`` at ``i * CONTROL``. The
    first `WORD` bytes of each are in ``heads``, and the port of its sender, in network byte order, in ``ports``.
    `send` answers a run of them with one answer, `send_own` each with its own, which lies in ``own`` at ``i * OWN``
    and is ``own_lengths[i]`` bytes long. An answer leaves with ``answer_control`` bytes of the ancillary data of its
    request, those from ``control_start``.
    """

    def __init__(
        self,
        sock: socket.socket,
        longest: int,
        *,
        name_length: int,
        control_start: int = 0,
        answer_control: int = 0,
    ) -> None:
        assert _CALLS is not None
        self._receive, self._send = _CALLS
        # Asked at each call, as the number of a closed socket may belong to another one by then.
        self._fileno = sock.fileno
        room = longest + 1  # one byte more, to tell a datagram that is too long
        self.stride = -(-room // WORD) * WORD  # so that each begins at a word
        data = bytearray(MESSAGES * self.stride)
        self.names = bytearray(MESSAGES * NAME)
        self.controls = bytearray(MESSAGES * CONTROL)
        self.data = data
        self.view = memoryview(data)
        self._in = (_Message * MESSAGES)()
        self._out = (_Message * MESSAGES)()
        self._parts = (_Part * MESSAGES)()
        self._answer_part = _Part()
        self._answer = b""
        own = bytearray(MESSAGES * OWN)
        self.own = memoryview(own)  # bytes are copied to a view at half the cost of copying them to the bytearray
        self._own_parts = (_Part * MESSAGES)()
        self._own_out = (_Message * MESSAGES)()
        at_data, at_names, at_controls, at_own = (_address(each) for each in (data, self.names, self.controls, own))
        for i in range(MESSAGES):
            self._parts[i] = _Part(at_data + i * self.stride, room)
            name, control = at_names + i * NAME, at_controls + i * CONTROL
            self._in[i].header = _Header(name, NAME, ctypes.addressof(self._parts[i]), 1, control, CONTROL)
            self._own_parts[i] = _Part(at_own + i * OWN, 0)
            control = answer_control and control + control_start
            for out, part in ((self._out, self._answer_part), (self._own_out, self._own_parts[i])):
                out[i].header = _Header(name, name_length, ctypes.addressof(part), 1, control, answer_control)
        # Pointers to each message: to make one for each call would cost a tenth of a microsecond.
        self._size = ctypes.sizeof(_Message)
        self._in_at = ctypes.c_void_p(ctypes.addressof(self._in))
        self._out_at, self._own_at = (
            [ctypes.c_void_p(ctypes.addressof(messages) + i * self._size) for i in range(MESSAGES)]
            for messages in (self._out, self._own_out)
        )
        self._headers = memoryview(self._in).cast("B")
        self._fresh = memoryview(bytes(self._in))
        self._used = 1  # of `_in` in the last call: one that fails leaves it, and may have used the first
        # A view of the msg_len of each message, which is cheaper to read than the attributes of the structures.
        words = memoryview(self._in).cast("B").cast("I")
        self.lengths = words[_Message.length.offset // 4 :: self._size // 4]
        self.heads = self.view.cast("Q")[:: self.stride // WORD]
        self.ports = memoryview(self.names).cast("H")[1 :: NAME // 2]
        sizes = memoryview(self._own_parts).cast("B").cast("L")  # size_t, on Linux
        self.own_lengths = sizes[_Part.length.offset // sizes.itemsize :: ctypes.sizeof(_Part) // sizes.itemsize]

    def receive(self) -> int:
        """Read what has arrived, up to `MESSAGES` datagrams, and return how many. Raises `OSError`."""
        # The kernel reads the sizes of the buffers for names and ancillary data where it then writes the lengths it
        # used (msg_namelen, msg_controllen): restore them, or the next batch would be cut to the lengths of this one.
        used = self._used * self._size
        self._headers[:used] = self._fresh[:used]
        count: int = self._receive(self._fileno(), self._in_at, MESSAGES, 0, None)
        if count < 0:
            raise _error()
        self._used = count
        return count

    def answer_with(self, answer: bytes) -> None:
        """Set what `send` sends from now on."""
        self._answer = answer  # the kernel is given its address, so it must stay alive
        self._answer_part.base = ctypes.cast(ctypes.c_char_p(answer), ctypes.c_void_p).value
        self._answer_part.length = len(answer)

    def send(self, first: int, count: int) -> int:
        """Answer ``count`` datagrams from the ``first``; return how many were, at least 1. Raises `OSError`."""
        return self._send_from(self._out_at[first], count)

    def send_own(self, first: int, count: int) -> int:
        """As `send`, with the own answer of each."""
        return self._send_from(self._own_at[first], count)

    def _send_from(self, first: ctypes.c_void_p, count: int) -> int:
        sent: int = self._send(self._fileno(), first, count, 0)
        if sent < 0:
            raise _error()
        return sent


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
