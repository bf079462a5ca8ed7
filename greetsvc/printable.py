"""Makes text from the network safe for terminals and logs, which a hostile greeting or name must not control."""

from __future__ import annotations

import re

__all__ = ["escaped", "one_line", "printable", "shortened", "without_line_end"]

# What `str.isprintable` lets pass, but no terminal shows: the Default_Ignorable_Code_Point property (Unicode 16.0,
# DerivedCoreProperties.txt), and blanks that are no spaces: U+2800 (Braille), U+13441 and U+13442 (Egyptian),
# U+16FE4 (Khitan), U+1D159 (music).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)


def printable(text: str) -> str:
    """The text with an escape for every character that a terminal obeys or does not show.

    These are control and format characters (ESC, BEL, bidirectional overrides, zero-width ones), fillers and
    variation selectors, surrogates, unassigned code points, and spaces other than U+0020. Newlines and tabs stay, and
    CR LF becomes a newline.
    """
    return "".join(char if char in "\n\t" else _escaped(char) for char in text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same in one line: a line end at the end is removed; other newlines, and tabs, are escaped too."""
    return escaped(without_line_end(text))


def escaped(text: str) -> str:
    """The same in one line with the line end escaped too, so that two different texts stay different."""
    return text if _is_shown(text) else "".join(map(_escaped, text))


def shortened(text: str, most: int) -> str:
    """The text in at most ``most`` characters; when some are left out, it ends by saying how many."""
    if len(text) <= most:
        return text
    end = f"… ({len(text)} characters)"
    return text[: max(0, most - len(end))] + end


def without_line_end(text: str) -> str:
    """The text without the CR LF, LF or CR at its end."""
    return text.removesuffix("\n").removesuffix("\r")


def _is_shown(text: str) -> bool:
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def _escaped(char: str) -> str:
    return char if _is_shown(char) else char.encode("unicode_escape").decode("ascii")
