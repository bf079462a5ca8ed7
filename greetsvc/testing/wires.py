"""What peers of a protocol send, byte by byte: good messages, and each kind of bad one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from greetsvc.protocols.framing import Counted, Lines, Netstrings
from greetsvc.protocols.talking import TalkingPlugin
from greetsvc.wire import line_end

__all__ = ["Wire", "wire_of"]

_NAMES = ("Ada", "Grace Hopper", "Müller", "李雷", "ペンギン", "x" * 200)
_STRANGE = ("", " ", "\0", "a\0b", "\x1b[31m", "\t", "-1", "0", "9" * 100, "%s{0}{name}", "../..", "\u202e", "\ufeff")
_UNDECODABLE = (b"\xff", b"\x80", b"\xff\xff\xff", b"\x00\xd8", b"\xff")

_OPENING = (
    b"GET / HTTP/1.1\r\nHost: greet.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _RESERVED = 0x81, 0x83


@frozen(kw_only=True)
class Wire:
    """What a peer may send: ``messages`` that are answered, after the ``opening`` of a connection if there is one.

    And what must end the connection with an error: a message that is ``too_long``, one whose text is
    ``undecodable``, and bytes that are ``broken`` framing. ``endless`` is a byte of a message that never ends. None
    where there is no such thing. ``strange`` are messages that nobody expects, and that are answered or refused.
    """

    messages: Sequence[bytes]
    opening: bytes = b""
    too_long: bytes | None = None
    undecodable: bytes | None = None
    broken: bytes | None = None
    endless: bytes | None = None
    strange: Sequence[bytes] = ()


def wire_of(plugin: Any, encoding: str) -> Wire:
    """The wire of a talking protocol on one of the framings of the service."""
    if not isinstance(plugin, TalkingPlugin):
        raise TypeError(f"{plugin!r} has a framing of its own: set `wire` to what its peers send")
    longest, framing = plugin.limits.max, plugin.framing
    names, strange = (
        [text.encode(encoding) for text in texts if _writes(encoding, text) and len(text.encode(encoding)) <= longest]
        for texts in (_NAMES, _STRANGE)
    )
    long = ("x" * longest).encode(encoding) + line_end(encoding, "x")
    bad = next((piece for piece in _UNDECODABLE if not _reads(encoding, piece)), None)
    if isinstance(framing, Lines | Netstrings | Counted):
        return Wire(
            messages=[framing.frames([name]) for name in names],
            too_long=framing.frames([long]),
            undecodable=None if bad is None else framing.frames([bad]),
            broken=b"a:b," if isinstance(framing, Netstrings) else None,
            endless=line_end(encoding, "x") if isinstance(framing, Lines) else None,
            strange=[framing.frames([text]) for text in strange],
        )
    return Wire(
        opening=_OPENING,
        messages=[_frame(_TEXT, name.encode()) for name in _NAMES if len(name.encode()) <= longest],
        too_long=_frame(_TEXT, b"x" * (longest + 1)),
        undecodable=_frame(_TEXT, b"\xff"),
        broken=_frame(_RESERVED, b""),
        strange=[_frame(_TEXT, text.encode()) for text in _STRANGE],
    )


def _frame(opcode: int, payload: bytes) -> bytes:
    """A frame of a WebSocket client (RFC 6455 5.2). Its mask changes nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([opcode]) + length + bytes(4) + payload


def _writes(encoding: str, text: str) -> bool:
    try:
        return text.encode(encoding).decode(encoding) == text
    except UnicodeError:
        return False


def _reads(encoding: str, data: bytes) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True
