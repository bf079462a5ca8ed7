"""The greeter ``fortune``: one of many sayings, as a quote-of-the-day service gives (RFC 865)."""

from __future__ import annotations

import random
import re

from greetsvc.greeters.watched_file import WatchedFile
from greetsvc.visit import Visit

__all__ = ["FortuneGreeter", "parse_fortunes"]

LONGEST = 511
"""The longest saying in bytes: RFC 865 asks for fewer than 512 characters."""


class FortuneGreeter:
    """Picks a saying from a file in the format of strfile(1): sayings separated by lines with nothing but ``%``.

    Sayings that are longer than RFC 865 allows are skipped. Raises `OSError` or `ValueError` as `WatchedFile` does,
    and `ValueError` for a file without a saying that is short enough.
    """

    needs = frozenset({"when"})  # another saying at each visit, so no greeting may be kept

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, parse_fortunes)

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> FortuneGreeter:  # noqa: ARG003 - bytes need no encoding
        """A random saying under 512 bytes from the file PATH in the format of strfile(1) (RFC 865)."""
        return cls(argument)

    def greet(self, visit: Visit) -> bytes:
        """A saying, each equally likely."""
        return random.choice(self._file.content())  # noqa: S311 - no secret


def parse_fortunes(data: bytes) -> list[bytes]:
    """The sayings of a file that are short enough. Raises `ValueError` where there is none."""
    sayings = re.split(rb"^%\r?\n|^%\r?\Z", data, flags=re.MULTILINE)
    short = [saying for saying in sayings if saying.strip() and len(saying) <= LONGEST]
    if not short:
        raise ValueError(f"no saying of at most {LONGEST} bytes; sayings are separated by lines of %")
    return short
