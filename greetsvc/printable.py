"""Text from the network made fit for a terminal, which a hostile greeting must not drive."""

from __future__ import annotations

__all__ = ["one_line", "printable", "without_line_end"]


def printable(text: str) -> str:
    """The text with every character that a terminal would act on, or not show, written as an escape.

    Newlines and tabs stay, and CR LF becomes a newline. Control and format characters (ESC, BEL, bidirectional
    overrides, zero-width ones), surrogates, unassigned code points and odd spaces are escaped.
    """
    return "".join(_shown(char) for char in text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same in one line: the line end at the end is left out, other newlines and tabs are escaped too."""
    return "".join(char if char.isprintable() else _escape(char) for char in without_line_end(text))


def without_line_end(text: str) -> str:
    """The text without the CR LF, LF or CR that closes it."""
    return text.removesuffix("\n").removesuffix("\r")


def _shown(char: str) -> str:
    return char if char in "\n\t" or char.isprintable() else _escape(char)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
