"""The plugins do what they say, and the protocol passes the tests that every protocol must pass."""

from __future__ import annotations

import pytest

from greetsvc.greeters import Address, Visit, find_greeter
from greetsvc.testing import Conformance


class TestTemplate(Conformance):
    plugin = "template:end=?"


def test_the_greeter_says_its_word() -> None:
    greeter = find_greeter("template", "Hello", "utf-8")
    assert (
        greeter.greet(Visit("tcp", Address("192.0.2.1", 9599), Address("127.0.0.1", 8088))) == b"Hello 192.0.2.1\r\n"
    )


def test_a_wrong_argument_is_one_line() -> None:
    with pytest.raises(ValueError, match="template needs a word, as template:Hello, not '12'"):
        find_greeter("template", "12", "utf-8")
