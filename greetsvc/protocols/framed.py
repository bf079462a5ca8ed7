"""The built-in talking protocols on plain streams: each is a framing."""

from __future__ import annotations

from typing import ClassVar

from greetsvc.protocols.framing import Counted, Framing, Lines, Netstrings
from greetsvc.protocols.talking import TalkingProtocol

__all__ = ["Int32Protocol", "LinesProtocol", "NetstringProtocol"]


class LinesProtocol(TalkingProtocol):
    """Greets each line; a line ends in LF or CRLF."""

    framing: ClassVar[type[Framing]] = Lines


class NetstringProtocol(TalkingProtocol):
    """Greets each netstring, as in "5:hello,"."""

    framing: ClassVar[type[Framing]] = Netstrings
    text_of = staticmethod(bytes.decode)


class Int32Protocol(TalkingProtocol):
    """Greets each message behind its length in four bytes, the most significant first."""

    framing: ClassVar[type[Framing]] = Counted
    text_of = staticmethod(bytes.decode)
