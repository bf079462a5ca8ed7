"""Makes text from the network safe for terminals and logs, which a hostile greeting or name must not control."""

from __future__ import annotations

__all__ = ["escaped", "one_line", "printable", "shortened", "without_line_end"]


def printable(text: str) -> str:
    """The text with an escape for every character that a terminal obeys or does not show.

    These are control and format characters (ESC, BEL, bidirectional overrides, zero-width ones), surrogates,
    unassigned code points, and spaces other than U+0020. Newlines and tabs stay, and CR LF becomes a newline.
    """
    return "".join(char if char in "\n\t" else _escaped(char) for char in text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same in one line: a line end at the end is removed; other newlines, and tabs, are escaped too."""
    return escaped(without_line_end(text))


def escaped(text: str) -> str:
    """The same in one line with the line end escaped too, so that two different texts stay different."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def shortened(text: str, most: int) -> str:
    """The text in at most ``most`` characters; when some are left out, it ends by saying how many."""
    if len(text) <= most:
        return text
    end = f"… ({len(text)} characters)"
    return text[: max(0, most - len(end))] + end


def without_line_end(text: str) -> str:
    """The text without the CR LF, LF or CR at its end."""
    return text.removesuffix("\n").removesuffix("\r")


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
