# mypy: allow-untyped-calls
# (Twisted's receivers have no types.)
"""How messages are told apart on a stream: each framing is one of Twisted's own receivers, in bounds. No sockets.

A framing belongs to a listener. Its ``receiver()`` collects the messages of one connection; what the peer sends is
given to it piece by piece, and the messages are taken from it when they are answered.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from twisted.protocols.basic import Int32StringReceiver, LineOnlyReceiver, NetstringReceiver

from greetsvc.wire import line_end

__all__ = ["Counted", "Framing", "Lines", "Netstrings", "Receiver"]


class Receiver(Protocol):
    """Collects the messages of one connection.

    ``messages`` are complete and not answered yet. ``fault`` says why nothing that follows them can be told apart;
    empty while all is well. Then the receiver is given nothing more.
    """

    messages: list[bytes]
    fault: str

    def dataReceived(self, data: bytes) -> None:
        """The next piece of what the peer sends."""
        ...


class Framing(Protocol):
    """How messages are told apart. It is made from the name of an encoding and the bytes that a message may have."""

    def __init__(self, encoding: str, longest: int, /) -> None: ...

    def receiver(self) -> Receiver:
        """A receiver for one connection."""
        ...

    def frames(self, payloads: list[bytes]) -> bytes:
        """The payloads as they are sent."""
        ...


class _Connected:
    """What the receivers ask of a transport, of which they know nothing here."""

    disconnecting = False

    def loseConnection(self) -> None:
        """The fault is told in another way."""


_CONNECTED = _Connected()
_LINE_END = re.compile(r"\r\n?|\n")


def line_text(line: bytes, encoding: str) -> str:
    """The text of a line. Raises `UnicodeDecodeError`."""
    return line.decode(encoding).removesuffix("\r")


class _LineReceiver(LineOnlyReceiver):
    """Lines end in LF; the CR of a CRLF still belongs to them."""

    def __init__(self, end: bytes, most: int) -> None:
        self.messages: list[bytes] = []
        self.fault = ""
        self.transport = _CONNECTED  # type: ignore[assignment]
        self.delimiter = end
        self.MAX_LENGTH = most
        self.lineReceived = self.messages.append  # type: ignore[method-assign]

    def lineLengthExceeded(self, line: bytes) -> None:
        self.fault = f"a line is longer than {self.MAX_LENGTH} bytes"


class _WideLineReceiver(_LineReceiver):
    """The same where a character is of two or four bytes: what looks like a line end may be parts of two others."""

    def dataReceived(self, data: bytes) -> None:
        width, data = len(self.delimiter), self._buffer + data
        start = at = 0
        while (at := data.find(self.delimiter, at)) >= 0:
            if (at - start) % width:
                at += 1
            elif at - start > self.MAX_LENGTH:
                break
            else:
                self.messages.append(data[start:at])
                start = at = at + width
        self._buffer = data[start:]
        if len(self._buffer) >= self.MAX_LENGTH + width:  # less may be a line and a part of its end
            self.lineLengthExceeded(self._buffer)


class Lines:
    """One line per message."""

    def __init__(self, encoding: str, most: int) -> None:
        if "a\nb".encode(encoding) != "a".encode(encoding) + line_end(encoding, "\nb"):
            raise ValueError(f"lines cannot be told apart in the encoding {encoding}")
        self._encoding = encoding
        self._most = most
        self._lf, self._cr = line_end(encoding), line_end(encoding, "\r")
        self._end = self._cr + self._lf
        # A number is found in bytes five times as fast as a byte string.
        self._line_ends: list[Any] = [end[0] if len(end) == 1 else end for end in (self._cr, self._lf)]
        self._receiver = _LineReceiver if len(self._lf) == 1 else _WideLineReceiver

    def receiver(self) -> Receiver:
        """A receiver for one connection."""
        return self._receiver(self._lf, self._most)

    def frames(self, payloads: list[bytes]) -> bytes:
        """Each payload as one line that ends in CRLF. Line ends inside it become spaces."""
        cr, lf = self._line_ends
        together = b"".join(payloads)
        if cr in together or lf in together:
            payloads = [*map(self._as_one_line, payloads)]
        return self._end.join(payloads) + self._end

    def _as_one_line(self, payload: bytes) -> bytes:
        # Not splitlines(), which knows more line ends than a reader of lines does.
        text = payload.decode(self._encoding, "replace").rstrip("\r\n")
        return _LINE_END.sub(" ", text).encode(self._encoding, "replace")


class _NetstringReceiver(NetstringReceiver):
    def __init__(self, most: int) -> None:
        self.messages: list[bytes] = []
        self.MAX_LENGTH = most
        self.stringReceived = self.messages.append  # type: ignore[method-assign]
        self.makeConnection(_CONNECTED)

    @property
    def fault(self) -> str:
        return f"this is no netstring of at most {self.MAX_LENGTH} bytes" if self.brokenPeer else ""


class Netstrings:
    """``5:hello,`` (https://cr.yp.to/proto/netstrings.txt)."""

    def __init__(self, _encoding: str, most: int) -> None:
        self._most = most

    def receiver(self) -> Receiver:
        """A receiver for one connection."""
        return _NetstringReceiver(self._most)  # type: ignore[return-value]  # its fault is a property

    def frames(self, payloads: list[bytes]) -> bytes:
        """The payloads as netstrings."""
        return b"".join([b"%d:%b," % (len(payload), payload) for payload in payloads])


class _CountedReceiver(Int32StringReceiver):
    def __init__(self, most: int) -> None:
        self.messages: list[bytes] = []
        self.fault = ""
        self.MAX_LENGTH = most
        self.stringReceived = self.messages.append  # type: ignore[method-assign]

    def lengthLimitExceeded(self, length: int) -> None:
        self.fault = f"a message of {length} bytes is longer than {self.MAX_LENGTH}"


class Counted:
    """Four bytes with the length, the most significant first, and as many bytes."""

    def __init__(self, _encoding: str, most: int) -> None:
        self._most = most

    def receiver(self) -> Receiver:
        """A receiver for one connection."""
        return _CountedReceiver(self._most)

    def frames(self, payloads: list[bytes]) -> bytes:
        """Each payload behind its length."""
        return b"".join([len(payload).to_bytes(4, "big") + payload for payload in payloads])
