"""What server and client must agree on byte by byte: the marked UDP request, the measured answer, the path record.

The request is in `greetsvc.marked`; its names are here too.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import asdict, frozen

from greetsvc.address import Address
from greetsvc.marked import (
    MARK,
    MARKED_MINIMUM,
    MAX_ANSWER,
    MAX_FIELDS,
    MAX_PAID_ANSWER,
    MAX_REQUEST,
    PADDING,
    fields_of,
    has_fields,
    nonce_of,
    request,
)
from greetsvc.net.linux.packets import Syn

__all__ = [
    "COUNTED",
    "MARK",
    "MARKED_MINIMUM",
    "MAX_ANSWER",
    "MAX_FIELDS",
    "MAX_MEASURED",
    "MAX_PAID_ANSWER",
    "MAX_REQUEST",
    "PADDING",
    "REFUSAL",
    "WRAP",
    "Datagram",
    "Measured",
    "PathRecord",
    "Tcp",
    "Tls",
    "count_of",
    "decode_measured",
    "decode_record",
    "encode_measured",
    "encode_record",
    "fields_of",
    "has_fields",
    "line_end",
    "measured_in",
    "nonce_of",
    "padding_of",
    "request",
]

REFUSAL = "error: "
"""How the last answer of a talking protocol begins: it takes no more messages, for the reason that follows."""

# The measured answer: what the server counted of a session, and when. Neither end trusts the other.

MAX_MEASURED = 160
"""The longest measured answer, in bytes; a request must be longer, or it is greeted in the ordinary way."""

WRAP = 1_000_000
"""``seen`` and ``seq`` of a measured answer are counts modulo this: six digits, so that the line stays short."""

COUNTED = re.compile(MARK + rb"([0-9A-Fa-f]{16} s=([0-9A-Fa-f]{16}) n=[0-9]{1,10} a=[0-9]{1,3}) w=count (?![a-z])")
"""A request for a measured answer as `greet` writes it. The groups are what `count_of` returns, found sooner."""

_PADDED = re.compile("[0-9]{1,4}")
_SESSION, _NUMBER, _ATTEMPT = re.compile("[0-9A-Fa-f]{16}"), re.compile("[0-9]{1,10}"), re.compile("[0-9]{1,3}")


def padding_of(request: bytes) -> int | None:
    """The size in bytes to which a request wants its measured answer padded (``p=``); None where it does not."""
    wanted = fields_of(request).get("p", "") if has_fields(request) else ""
    return int(wanted) if _PADDED.fullmatch(wanted) else None


def count_of(request: bytes, *, padded: bool = False, wanted: str = "count") -> tuple[bytes, bytes] | None:
    """What a request for a measured answer carries; None for any other, where a field is bad, and without a session.

    It has ``w=`` with what is ``wanted``. One that wants a ``padded`` answer is another one than one that does not.

    First what the answer repeats, ``NONCE s=SESSION n=NUMBER a=ATTEMPT`` as it was written, then the session alone.
    """
    fields = fields_of(request)
    session, number, attempt = fields.get("s", ""), fields.get("n", "0"), fields.get("a", "0")
    if (
        fields.get("w") != wanted
        or ("p" in fields) != padded
        or not _SESSION.fullmatch(session)
        or not _NUMBER.fullmatch(number)
        or not _ATTEMPT.fullmatch(attempt)
    ):
        return None
    repeated = f"{nonce_of(request)} s={session} n={number} a={attempt}"
    return repeated.encode("ascii"), session.encode("ascii")


@frozen
class Measured:
    """A measured answer: a request, told by ``nonce``, ``session``, ``number`` and ``attempt``, as the server saw it.

    ``seen`` is how many requests of this session had arrived, with this one, and ``seq`` how many answers it was
    sent, with this one, both modulo `WRAP`. ``rx`` and ``tx`` are the server's CLOCK_REALTIME in nanoseconds when the
    request arrived and when the answer left. ``ttl``, ``tos`` (DSCP and ECN) and ``size`` in bytes are those of the
    request as it arrived. None: the server cannot know it.
    """

    nonce: str
    session: str
    number: int
    attempt: int
    seen: int
    seq: int
    rx: int
    tx: int
    ttl: int | None
    tos: int | None
    size: int


_LINE = b"greeted 1 %b seen=%d seq=%d rx=%d tx=%d ttl=%d tos=%d size=%d\n"
_LINE_UNKNOWN = _LINE.replace(b"ttl=%d tos=%d", b"ttl=%b tos=%b")


def encode_measured(  # noqa: PLR0917 - called for each measured request, where keywords would cost time
    repeated: bytes, seen: int, seq: int, rx: int, tx: int, ttl: int | None, tos: int | None, size: int
) -> bytes:
    """The line that answers a request for which `count_of` gave ``repeated``; see `Measured`."""
    if ttl is None or tos is None:
        known = (b"" if value is None else b"%d" % value for value in (ttl, tos))
        return _LINE_UNKNOWN % (repeated, seen, seq, rx, tx, *known, size)
    return _LINE % (repeated, seen, seq, rx, tx, ttl, tos, size)


_MEASURED = re.compile(
    rb"greeted 1 ([0-9A-Fa-f]{16}) s=([0-9A-Fa-f]{16}) n=([0-9]{1,10}) a=([0-9]{1,3})"
    rb" seen=([0-9]{1,6}) seq=([0-9]{1,6}) rx=([0-9]{1,19}) tx=([0-9]{1,19})"
    rb" ttl=([0-9]{0,3}) tos=([0-9]{0,3}) size=([0-9]{1,5})(?: [!-~]+)*\r?\n?"
)
_BYTE = 255


def decode_measured(line: bytes) -> Measured | None:
    """The measured answer in a greeting, or None where it is none. Fields of a later version behind are ignored."""
    found = _MEASURED.fullmatch(line) if len(line) <= MAX_MEASURED else None
    if found is None:
        return None
    nonce, session, *numbers = (each.decode("ascii") for each in found.groups())
    number, attempt, seen, seq, rx, tx, ttl, tos, size = (int(each) if each else None for each in numbers)
    if (ttl or 0) > _BYTE or (tos or 0) > _BYTE:
        return None
    return Measured(nonce, session, number, attempt, seen, seq, rx, tx, ttl, tos, size)  # type: ignore[arg-type]


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
    """The request datagram as it arrived; ``size`` in bytes. An older server does not tell ``ecn``."""

    ttl: int | None
    dscp: int | None
    ecn: int | None
    size: int


@frozen
class PathRecord:
    """What the server saw: ``you`` is the client, ``me`` the address it reached, ``via`` the proxy that named it.

    ``measured`` is the measured answer to a request that named its session. ``syn`` is the client's SYN as it
    arrived. ``instance`` differs after each start and in each replica. ``nonce`` is
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
    measured: str | None = None


def encode_record(record: PathRecord) -> bytes:
    """The record as a line of JSON, under 1200 bytes."""
    line: dict[str, Any] = {"greetsvc": VERSION, "instance": record.instance, "nonce": record.nonce}
    line |= {"transport": record.transport, "you": _ends(record.you), "me": _ends(record.me)}
    line["via"] = record.via and _ends(record.via)
    for name in ("syn", "tcp", "tls", "datagram"):
        part = getattr(record, name)
        line[name] = part and {key: _cut(value) for key, value in asdict(part).items()}
    if record.measured is not None:
        line["measured"] = record.measured
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
            measured=_typed(found.get("measured"), str, type(None)),
        )
    except (KeyError, RecursionError, TypeError, ValueError):
        return None


def measured_in(data: bytes) -> Measured | None:
    """The measured answer that a greeting is, or that a path record holds; None where there is none. Never raises."""
    if not data.startswith(b"{"):
        return decode_measured(data)
    record = decode_record(data)
    if record is None or record.measured is None:
        return None
    measured = decode_measured(record.measured.encode("ascii", "replace"))
    return measured if measured is not None and measured.nonce == record.nonce else None


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
    """One part of a record; fields that a later version adds are ignored, and one that may be None may be missing."""
    if found is None:
        return None
    if type(found) is not dict:
        raise TypeError(f"{found!r} has no fields")
    types = {name: _TYPES[annotation] for name, annotation in kind.__annotations__.items()}
    got = {name: found.get(name) if type(None) in allowed else found[name] for name, allowed in types.items()}
    return kind(**{name: _typed(value, *types[name]) for name, value in got.items()})


def _typed(value: Any, *allowed: type) -> Any:
    """The value, which must be of exactly one of these types: a bool is an int for Python, but no number in JSON."""
    if type(value) is str and len(value) > _LONGEST_TEXT:
        raise ValueError(f"text of {len(value)} characters")
    if type(value) not in allowed or (type(value) is int and not -(2**31) <= value < 2**32):
        raise TypeError(f"{value!r} is of no allowed type")
    return value
