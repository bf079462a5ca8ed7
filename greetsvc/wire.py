"""What the server and the client must agree on byte by byte: the marked UDP request, and the path record.

A request that begins with the mark and is longer than its answer is always answered (the UDP rule, CVE-2024-2169): it
cannot amplify, and it cannot loop, because no answer begins with the mark.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import asdict, frozen

from greetsvc.net.linux.packets import Syn
from greetsvc.visit import Address

__all__ = [
    "MARK",
    "MARKED_MINIMUM",
    "MAX_ANSWER",
    "MAX_PAID_ANSWER",
    "MAX_REQUEST",
    "Datagram",
    "PathRecord",
    "Tcp",
    "Tls",
    "decode_record",
    "encode_record",
    "line_end",
    "nonce_of",
    "request",
]

MARK = b"GREET/1 "
MARKED_MINIMUM = len(MARK) + 16 + 1
"""The shortest request that carries the mark, a nonce and the space behind it, in bytes."""

MAX_ANSWER = 1199
"""The longest answer in one datagram, in bytes: one byte shorter than the client's request by default."""

MAX_PAID_ANSWER = 512
"""The longest answer to a request without the mark, in bytes (RFC 865 asks for fewer than 512 characters)."""

MAX_REQUEST = 8192
"""The longest request datagram that is read, in bytes; a longer one is counted as oversize."""

_MARK_AND_NONCE = re.compile(MARK + b"([0-9A-Fa-f]{16})")


def request(nonce: str, size: int) -> bytes:
    """A request of ``size`` bytes: mark, ``nonce`` of 16 hex digits, a space, padding.

    A size below `MARKED_MINIMUM` has no room for mark and nonce: such a request is padding only, and unmarked.
    """
    if size < MARKED_MINIMUM:
        return b"." * size
    return (MARK + nonce.encode("ascii") + b" ").ljust(size, b".")


def nonce_of(request: bytes) -> str | None:
    """The nonce in a marked request, or None where there is none."""
    found = _MARK_AND_NONCE.match(request)
    return found and found[1].decode("ascii")


# Lines of text, in whatever encoding.


def line_end(encoding: str, text: str = "\n") -> bytes:
    """A line end in this encoding, without the byte order mark that some put in front of every text."""
    return text.encode(encoding)[len("".encode(encoding)) :]


# The path record: what the server saw of a visit, as one line of JSON. The client reads records of servers that it
# does not trust, so every field is checked.

VERSION = 1
_LONGEST_TEXT = 200


@frozen
class Tcp:
    """The connection at the server's end: round trip in microseconds, MSS in bytes, retransmitted segments."""

    rtt_us: int
    mss: int
    retransmits: int


@frozen
class Tls:
    """What the TLS handshake agreed on."""

    version: str
    cipher: str
    sni: str | None
    alpn: str | None


@frozen
class Datagram:
    """The request datagram as it arrived; ``size`` in bytes."""

    ttl: int | None
    dscp: int | None
    size: int


@frozen
class PathRecord:
    """What the server saw: ``you`` is the client, ``me`` the address it reached, ``via`` the proxy that named it.

    ``syn`` is the client's SYN as it arrived. ``instance`` differs after each start and in each replica. ``nonce`` is
    the nonce in a marked request. None means that there is no such thing, or that the server cannot know it.
    """

    instance: str
    nonce: str | None
    transport: str
    you: Address
    me: Address
    via: Address | None
    syn: Syn | None
    tcp: Tcp | None
    tls: Tls | None
    datagram: Datagram | None


def encode_record(record: PathRecord) -> bytes:
    """The record as a line of JSON, under 1200 bytes."""
    line: dict[str, Any] = {"greetsvc": VERSION, "instance": record.instance, "nonce": record.nonce}
    line |= {"transport": record.transport, "you": _ends(record.you), "me": _ends(record.me)}
    line["via"] = record.via and _ends(record.via)
    for name in ("syn", "tcp", "tls", "datagram"):
        part = getattr(record, name)
        line[name] = part and {key: _cut(value) for key, value in asdict(part).items()}
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def decode_record(line: bytes) -> PathRecord | None:
    """The record in a greeting, or None where the greeting is no record of this version. Never raises."""
    try:
        found = json.loads(line)
        if type(found) is not dict or found.get("greetsvc") != VERSION or type(found["greetsvc"]) is bool:
            return None
        return PathRecord(
            instance=_typed(found["instance"], str),
            nonce=_typed(found["nonce"], str, type(None)),
            transport=_typed(found["transport"], str),
            you=_address(found["you"]),
            me=_address(found["me"]),
            via=None if found["via"] is None else _address(found["via"]),
            syn=_part(Syn, found["syn"]),
            tcp=_part(Tcp, found["tcp"]),
            tls=_part(Tls, found["tls"]),
            datagram=_part(Datagram, found["datagram"]),
        )
    except (KeyError, RecursionError, TypeError, ValueError):
        return None


def _ends(address: Address) -> dict[str, Any]:
    return {"host": _cut(address.host), "port": address.port}


def _cut(value: Any) -> Any:
    """The value; text is made ASCII and cut, so that JSON needs at most twice the bound whatever a peer sent."""
    return value.encode("ascii", "backslashreplace")[:_LONGEST_TEXT].decode() if isinstance(value, str) else value


def _address(found: Any) -> Address:
    port = _typed(found["port"], int)
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}")
    return Address(_typed(found["host"], str), port)


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
}


def _part(kind: Any, found: Any) -> Any:
    """One part of a record; fields that a later version adds are ignored."""
    if found is None:
        return None
    types = {name: _TYPES[annotation] for name, annotation in kind.__annotations__.items()}
    return kind(**{name: _typed(found[name], *allowed) for name, allowed in types.items()})


def _typed(value: Any, *allowed: type) -> Any:
    """The value, which must be of exactly one of these types: a bool is an int for Python, but no number in JSON."""
    if type(value) is str and len(value) > _LONGEST_TEXT:
        raise ValueError(f"text of {len(value)} characters")
    if type(value) not in allowed or (type(value) is int and not -(2**31) <= value < 2**32):
        raise TypeError(f"{value!r} is of no allowed type")
    return value
