"""Text from the network cannot control a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.printable import escaped, one_line, printable, without_line_end


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
        ("a\u3164b", "a\\u3164b"),
        ("\u115f\u1160\uffa0", "\\u115f\\u1160\\uffa0"),
        ("\u2800", "\\u2800"),
        ("\ufe00\ufe0f", "\\ufe00\\ufe0f"),
        ("e\u034f", "e\\u034f"),
        ("\u180b\u180e\u180f", "\\u180b\\u180e\\u180f"),
        ("\U000e0100\U000e01ef", "\\U000e0100\\U000e01ef"),
        ("\u17b4\u17b5", "\\u17b4\\u17b5"),
        ("\U00013441\U00016fe4\U0001d159", "\\U00013441\\U00016fe4\\U0001d159"),
        ("e\u0301 \u0e33 \u1100\u1161 \U0001f600", "e\u0301 \u0e33 \u1100\u1161 \U0001f600"),
    ],
)
def test_characters_that_control_a_terminal_or_are_invisible_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_default_ignorable_character_passes() -> None:
    for number in (*range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000), 0xAD, 0x61C, 0x2065, 0xFFF0):
        name = chr(number).encode("unicode_escape").decode()
        assert printable(f"a{chr(number)}b") == escaped(f"a{chr(number)}b") == f"a{name}b"


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
