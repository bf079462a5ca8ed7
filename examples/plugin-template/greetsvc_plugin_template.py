"""A greeter and a protocol for greetsvc. Keep what you need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from greetsvc.greeters import Visit
from greetsvc.protocols import TalkingProtocol

__all__ = ["TemplateGreeter", "TemplateProtocol"]


class TemplateGreeter:
    """Says one word to each visitor."""

    needs = frozenset({"peer"})  # the fields of the visit that greet() reads

    def __init__(self, word: str, encoding: str) -> None:
        self._word = word
        self._encoding = encoding

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> TemplateGreeter:
        """The word WORD, and the visitor's address."""
        if not argument.isalpha():
            raise ValueError(f"template needs a word, as template:Hello, not {argument!r}")
        return cls(argument, encoding)

    def greet(self, visit: Visit) -> bytes:
        """The greeting."""
        return f"{self._word} {visit.peer.host}\r\n".encode(self._encoding, "replace")


class TemplateProtocol(TalkingProtocol):
    """Greets, then sends each line back with something behind it."""

    options: ClassVar[Mapping[str, Callable[[str], object]]] = {"end": str}

    def reply(self, message: str) -> str:
        """The answer to one line. It must not block."""
        return f"{message}{self.factory.options.get('end', '!')}"
