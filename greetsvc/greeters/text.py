"""The greeter ``text``: a template filled in for each visit."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from string import Formatter

from greetsvc.visit import NOBODY, Visit

__all__ = ["DEFAULT", "FIELDS", "TextGreeter", "Thanks"]

DEFAULT = r"Thank you for connecting\r\n"

FIELDS: dict[str, tuple[str, Callable[[Visit], str]]] = {
    "peer_host": ("peer", lambda visit: visit.peer.host),
    "peer_port": ("peer", lambda visit: str(visit.peer.port)),
    "local_host": ("local", lambda visit: visit.local.host),
    "local_port": ("local", lambda visit: str(visit.local.port)),
    "hostname": ("", lambda _visit: socket.gethostname()),
    "number": ("number", lambda visit: str(visit.number)),
    "time": ("when", lambda visit: datetime.fromtimestamp(visit.when, UTC).isoformat(timespec="seconds")),
    "transport": ("transport", lambda visit: visit.transport),
    # The peer is known in every visit. A talking protocol greets before it is told a name.
    "name": ("name", lambda visit: visit.name or visit.peer.host),
    "tls_version": ("tls", lambda visit: visit.tls.version if visit.tls else ""),
    "sni": ("tls", lambda visit: (visit.tls and visit.tls.sni) or ""),
    "certificate": ("tls", lambda visit: (visit.tls and visit.tls.certificate) or ""),
}
"""The template fields: the field of `Visit` that each needs (empty: none), and how its text is made of a visit.

A new field is added here, and in the README.
"""

_ESCAPES = {r"\r": "\r", r"\n": "\n", r"\t": "\t", r"\\": "\\"}


class TextGreeter:
    r"""Fills a template: literal text, ``{field}`` for each of `FIELDS`, ``{{`` and ``}}`` for braces.

    Raises `ValueError` for an unknown field, a field with a format or conversion, a single brace, an escape other
    than ``\r \n \t \\``, and literal text that cannot be written in ``encoding``. What cannot be written in the value
    of a field is replaced (Python's error handler ``replace``).
    """

    def __init__(self, template: str = DEFAULT, encoding: str = "utf-8") -> None:
        self._pieces = list(_parse(_unescape(template)))
        self._encoding = encoding
        self.needs = frozenset(FIELDS[piece][0] for literal, piece in self._pieces if not literal) - {""}
        try:
            "".join(piece for literal, piece in self._pieces if literal).encode(encoding)
            self.greet(Visit("tcp", NOBODY, NOBODY))
        except UnicodeError as error:
            raise ValueError(f"{template!r} cannot be written in {encoding}: {error}") from error

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> TextGreeter:
        """A template that is filled in for each visit; without one, "Thank you for connecting"."""
        return cls(argument or DEFAULT, encoding)

    def greet(self, visit: Visit) -> bytes:
        """The template with the fields of this visit."""
        filled = (piece if literal else FIELDS[piece][1](visit) for literal, piece in self._pieces)
        return "".join(filled).encode(self._encoding, "replace")

    def naming(self, visit: Visit) -> Callable[[str], bytes] | None:
        """Fills in all fields but the name; returns a function from a name to the greeting.

        It is for talking protocols, which greet many names in one visit, and leaves out a line end at the end. None
        where a field changes within a visit.
        """
        if "when" in self.needs:
            return None
        texts, encoding = [""], self._encoding
        for literal, piece in self._pieces:
            if not literal and piece == "name":
                texts.append("")
            else:
                texts[-1] += piece if literal else FIELDS[piece][1](visit)
        texts[-1] = texts[-1].removesuffix("\n").removesuffix("\r")
        nameless = visit.peer.host
        return lambda name: (name or nameless).join(texts).encode(encoding, "replace")


class Thanks:
    """The greeter of talking protocols where the settings have no greeting: the default one, with the name."""

    needs = frozenset({"name"})

    def __init__(self, encoding: str) -> None:
        self._nameless = TextGreeter(DEFAULT, encoding)
        self._named = TextGreeter(DEFAULT.replace(r"\r\n", r", {name}\r\n"), encoding)

    def greet(self, visit: Visit) -> bytes:
        """The default greeting, with the name if there is one."""
        return (self._named if visit.name else self._nameless).greet(visit)

    def naming(self, visit: Visit) -> Callable[[str], bytes] | None:
        """See `TextGreeter.naming`."""
        named, nameless = self._named.naming(visit), self._nameless.naming(visit)
        return named and nameless and (lambda name: (named if name else nameless)(name))


def _unescape(template: str) -> str:
    def replace(found: re.Match[str]) -> str:
        escape = found.group()
        if escape not in _ESCAPES:
            raise ValueError(rf"{escape!s} is not one of the escapes \r \n \t \\")
        return _ESCAPES[escape]

    return re.sub(r"\\.?", replace, template, flags=re.DOTALL)


def _parse(template: str) -> list[tuple[bool, str]]:
    """The template as pieces, each with whether it is literal text; else it is the name of a field."""
    pieces = []
    try:
        for literal, name, form, conversion in Formatter().parse(template):
            if literal:
                pieces.append((True, literal))
            if name is None:
                continue
            if name not in FIELDS:
                known = " ".join(f"{{{field}}}" for field in FIELDS)
                raise ValueError(f"{{{name}}} is not a field; there are {known}")
            if form or conversion:
                raise ValueError(f"{{{name}}} takes neither a format nor a conversion")
            pieces.append((False, name))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}") from error
    return pieces
