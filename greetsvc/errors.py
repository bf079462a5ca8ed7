"""The error for a setting that cannot be used, and the reason of any error in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc.printable import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ConfigError", "nearest", "reason_of", "without_middle"]

_LONGEST = 800
"""The characters of an error message: what it quotes may be a file or a command line of any length."""


class ConfigError(ValueError):
    """A setting that cannot be used. The text is one line: the setting's name, its value, and why or what is allowed.

    ``name`` and ``value`` are empty if ``why`` contains them already. They are kept apart because a command line
    spells the name in its own way (``--timeout`` for ``timeout``).
    """

    def __init__(self, why: str, *, name: str = "", value: object = "") -> None:
        self.name = name
        self.value = escaped(str(value))
        self.why = why
        subject = " ".join(filter(None, [name, self.value]))
        super().__init__(without_middle(escaped(f"{subject}: {why}" if subject else why)))


def without_middle(text: str) -> str:
    """The text, with its middle left out where it is too long for an error message: both ends tell what is wrong."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[3 - _LONGEST // 2 :]}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that was probably meant; None where none is near."""
    from difflib import get_close_matches  # only an error needs it

    return next(iter(get_close_matches(name, [*known], 1)), None)


def reason_of(error: BaseException) -> str:
    """The reason of an error in one line: the system's text and the file of an `OSError`, else its text or type."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
