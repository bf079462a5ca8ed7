"""Text from the network cannot control a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.printable import one_line, printable, without_line_end


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüß Gott", "Grüß Gott"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\rb", "a\\rb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\u2028", "a\\u200bb\\u2028"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_has_no_character_that_a_terminal_obeys(text: str) -> None:
    assert all(char in "\n\t" or char.isprintable() for char in printable(text))
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("text", "line"), [("a\r\n", "a"), ("a\n", "a"), ("a\r", "a"), ("a\n\n", "a\\n"), ("a\tb", "a\\tb"), ("", "")]
)
def test_one_line_removes_the_line_end(text: str, line: str) -> None:
    assert one_line(text) == line


def test_only_one_line_end_is_removed() -> None:
    assert without_line_end("a\r\n\r\n") == "a\r\n"
