"""The built-in talking protocols on plain streams: each is a framing."""

from __future__ import annotations

from greetsvc.protocols.framing import Counted, Lines, Netstrings
from greetsvc.protocols.talking import TalkingProtocol

__all__ = ["Int32Protocol", "LinesProtocol", "NetstringProtocol"]


class LinesProtocol(TalkingProtocol):
    """Greets each line; a line ends in LF or CRLF."""

    framing = Lines


class NetstringProtocol(TalkingProtocol):
    """Greets each netstring, as in "5:hello,"."""

    framing = Netstrings
    text_of = staticmethod(bytes.decode)


class Int32Protocol(TalkingProtocol):
    """Greets each message behind its length in four bytes, the most significant first."""

    framing = Counted
    text_of = staticmethod(bytes.decode)
