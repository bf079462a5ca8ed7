"""Each visitor is greeted in the right language, and a wrong table is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from greetsvc.greeters import Address, Visit, find_greeter

TABLE = Path(__file__).parents[1] / "languages.toml"


@pytest.mark.parametrize(
    ("host", "greeting"),
    [
        ("192.0.2.1", "Welcome, 192.0.2.1"),
        ("127.0.0.1", "Willkommen, 127.0.0.1"),
        ("127.0.0.2", "127.0.0.2 您好，歡迎光臨"),
        ("2001:db8::1", "Willkommen, 2001:db8::1"),
        ("/run/greet.sock", "Welcome, /run/greet.sock"),
    ],
)
def test_a_visitor_is_greeted_in_the_language_of_the_smallest_network(host: str, greeting: str) -> None:
    greeter = find_greeter("languages", str(TABLE), "utf-8")
    assert greeter.needs == {"peer"}
    assert greeter.greet(Visit("tcp", Address(host, 9599), Address("127.0.0.1", 8088))).decode() == f"{greeting}\r\n"


def test_text_that_the_encoding_does_not_have_is_replaced() -> None:
    greeter = find_greeter("languages", str(TABLE), "ascii")
    greeting = greeter.greet(Visit("tcp", Address("127.0.0.2", 9599), Address("127.0.0.1", 8088)))
    assert greeting == b"127.0.0.2 ???????\r\n"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('default = "en"', "'greetings' is missing"),
        ('default = "fr"\n[greetings]\nen = "Hello"', "there is no greeting in 'fr', only in en"),
        ('default = "en"\n[greetings]\nen = "Hello {name}"', r"may have \{host\} only, not 'name'"),
        ('default = "en"\n[greetings]\nen = ""\n[networks]\n"10.0.0.1/8" = "en"', "has host bits set"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "table.toml").write_text(table)
    with pytest.raises(ValueError, match=words) as wrong:
        find_greeter("languages", str(tmp_path / "table.toml"), "utf-8")
    assert "\n" not in str(wrong.value)
