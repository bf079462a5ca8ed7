"""The values that settings take: bounds, and numbers on the command line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import twisted
from greetsvc.daemon.settings.table import SETTINGS, shown
from greetsvc.errors import ConfigError
from greetsvc.printable import escaped

CERTIFICATE = str(Path(twisted.__file__).parent / "test" / "server.pem")
BY_NAME = {setting.name: setting for setting in SETTINGS}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("deadline", 0.0001, 0.0001),
        ("deadline", 86400, 86400.0),
        ("linger", 0, 0.0),
        ("drain", 0, 0.0),
        ("max-connections", 1, 1),
        ("max-per-source", 10_000_000, 10_000_000),
        ("udp-budget", 0, 0),
        ("udp-budget", 10**9, 10**9),
        ("trust-proxy", [], ()),
        ("log-visits", "summary", "summary"),
        ("log-format", "json", "json"),
        ("greeting", "", ""),
        ("client-ca", CERTIFICATE, CERTIFICATE),
    ],
)
def test_a_value_at_its_bound_is_accepted(name: str, value: object, expected: object) -> None:
    assert BY_NAME[name].read(value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadline", 0),
        ("deadline", 86400.1),
        ("deadline", True),
        ("deadline", None),
        ("linger", -0.1),
        ("drain", math.inf),
        ("drain", math.nan),
        ("max-connections", 0),
        ("max-connections", 10_000_001),
        ("max-connections", True),
        ("max-per-source", 2.0),
        ("udp-budget", 10**9 + 1),
        ("udp-budget", "1024"),
        ("trust-proxy", "10.0.0.0/8"),
        ("trust-proxy", ["10.0.0.0/8", 5]),
        ("trust-proxy", [""]),
        ("log-visits", "ALL"),
        ("log-visits", ["all"]),
        ("log-format", None),
        ("greeting", b"x"),
        ("client-ca", 5),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_quoted(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match="must be ") as caught:
        BY_NAME[name].read(value)
    wrong = value[-1] if isinstance(value, list) and name == "trust-proxy" else value
    assert shown(wrong) in str(caught.value)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("9" * 50, int("9" * 50)),
        ("5.", "5."),
        ("", ""),
        ("+5", "+5"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("\u0665", "\u0665"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        (" 5", " 5"),
        ("5\n", "5\n"),
    ],
)
def test_a_number_on_the_command_line_is_one_of_toml_and_other_text_stays_text(given_: str, expected: object) -> None:
    found = BY_NAME["deadline"].literal(given_)
    assert found == expected
    assert type(found) is type(expected)


@given(st.text(alphabet="0123456789.-e+_ nxif", max_size=400))
def test_any_text_for_a_number_is_accepted_or_refused(given_: str) -> None:
    for name in ("deadline", "max-connections", "udp-budget"):
        setting = BY_NAME[name]
        try:
            value = setting.read(setting.literal(given_))
        except ConfigError:
            continue
        assert math.isfinite(value)


def test_text_must_be_text() -> None:
    assert BY_NAME["greeting"].read("x") == "x"
    with pytest.raises(ConfigError, match="must be text, not 5"):
        BY_NAME["greeting"].read(5)


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_stays_as_it_is(line: str) -> None:
    assert escaped(line).isprintable()
    assert escaped(escaped(line)) == escaped(line)
    assert str(ConfigError(line)) == escaped(line)
    if line.isascii() and line.isprintable():
        assert escaped(line) == line


def test_a_long_value_is_cut_in_an_error_message() -> None:
    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) < 310
    assert shown(1 << 50_000) == "a number of thousands of digits"


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:10.0.0.0/120", "10.0.0.0/24"),
        ("::/0", "::/0"),
        ("::ffff:0:0/95", None),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_a_network_of_ipv4_mapped_into_ipv6_is_ipv4(name: str, means: str | None) -> None:
    if means is None:
        with pytest.raises(ConfigError, match="host bits"):
            BY_NAME["trust-proxy"].read([name])
    else:
        assert [str(network) for network in BY_NAME["trust-proxy"].read([name])] == [means]
