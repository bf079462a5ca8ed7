"""How messages are framed on a connection that goes on: lines, netstrings, length prefixes.

The server frames with Twisted's receivers, which are protocols; these are the same rules without I/O, so that single
probes and load runs share them.
"""

from __future__ import annotations

import re
import struct

from greetsvc.wire import line_end

__all__ = ["BadFrame", "Framing", "Int32", "Lines", "Netstrings"]


class BadFrame(Exception):
    """What came does not follow the rules of the framing; the text says why."""


class Framing:
    """The frames of one connection; bytes in, messages out, and back.

    ``limit`` is the longest message that is taken, in bytes; no more than that is kept of an unfinished one.
    ``pinged`` is set when the far end asked for a sign of life, ``farewell`` says why it closed: WebSocket has both.
    """

    pinged = False
    farewell = ""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rest = b""

    @property
    def partial(self) -> bytes:
        """What came of a message that is not whole, as far as that is known."""
        return self.rest

    def opening(self) -> bytes:
        """What is sent when the connection stands."""
        return b""

    def encode(self, message: bytes) -> bytes:
        """The frame of a message."""
        raise NotImplementedError

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now, in their order.

        :raises BadFrame: when this cannot be a frame, or is longer than the limit.
        """
        found = []
        self.rest += data
        while (message := self._next()) is not None:
            self._check(len(message))
            found.append(message)
        return found

    def replies(self) -> bytes:
        """What has to be sent because of what came."""
        return b""

    def closing(self) -> bytes:
        """What is sent before the connection is closed."""
        return b""

    def _next(self) -> bytes | None:
        """Take one whole message from what is left, if there is one."""
        raise NotImplementedError

    def _check(self, length: int) -> None:
        if length > self.limit:
            raise BadFrame(f"a message of {length} bytes or more came: longer than {self.limit}")

    def _cut(self, start: int, end: int, after: int = 0) -> bytes:
        """The message from ``start`` to ``end``; ``after`` are the bytes behind it that belong to its frame."""
        message, self.rest = self.rest[start:end], self.rest[end + after :]
        return message


class Lines(Framing):
    """A message is a line; it ends with CR LF, and a bare LF is taken too, both in the encoding of the text.

    Where a character has two or four bytes, what looks like a line end may be parts of two characters.
    """

    def __init__(self, limit: int, encoding: str) -> None:
        super().__init__(limit)
        self._cr, self._lf = (line_end(encoding, end) for end in "\r\n")

    def encode(self, message: bytes) -> bytes:
        """The message, and a line end."""
        return message + self._cr + self._lf

    def _next(self) -> bytes | None:
        end, width = self.rest.find(self._lf), len(self._lf)
        while end % width and end >= 0:
            end = self.rest.find(self._lf, end + 1)
        if end < 0:
            self._check(len(self.rest))
            return None
        return self._cut(0, end, width).removesuffix(self._cr)


class Netstrings(Framing):
    """``LENGTH:MESSAGE,`` with the length in decimal (https://cr.yp.to/proto/netstrings.txt)."""

    _LENGTH = re.compile(rb"(0|[1-9][0-9]{0,9}):")
    _START = re.compile(rb"(0|[1-9][0-9]{0,9})?")

    def encode(self, message: bytes) -> bytes:
        """The message as a netstring."""
        return b"%d:%b," % (len(message), message)

    def _next(self) -> bytes | None:
        found = self._LENGTH.match(self.rest)
        if found is None:
            if not self._START.fullmatch(self.rest):
                raise BadFrame("what came is not a netstring")
            return None
        length, start = int(found[1]), found.end()
        self._check(length)
        if len(self.rest) <= start + length:
            return None
        if self.rest[start + length] != ord(","):
            raise BadFrame("a netstring came that does not end with a comma")
        return self._cut(start, start + length, 1)


class Int32(Framing):
    """Four bytes, the length (big-endian, unsigned), and the message."""

    _PREFIX = struct.Struct("!I")

    def encode(self, message: bytes) -> bytes:
        """The message behind its length."""
        return self._PREFIX.pack(len(message)) + message

    def _next(self) -> bytes | None:
        start = self._PREFIX.size
        if len(self.rest) < start:
            return None
        (length,) = self._PREFIX.unpack_from(self.rest)
        self._check(length)
        return None if len(self.rest) < start + length else self._cut(start, start + length)
