"""The records of the settings: bounds, literals, defaults, and the documentation that follows them."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twisted
from greetsvc.daemon.config import settings
from greetsvc.daemon.settings import SETTINGS, Place, Settings, shown
from greetsvc.daemon.tap import Options
from greetsvc.errors import ConfigError
from greetsvc.printable import escaped

CERTIFICATE = str(Path(twisted.__file__).parent / "test" / "server.pem")
CHECKOUT = Path(__file__).parents[2]
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
    assert BY_NAME[name].type.read(value) == expected


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
        BY_NAME[name].type.read(value)
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
    found = BY_NAME["deadline"].type.literal(given_)
    assert found == expected
    assert type(found) is type(expected)


@given(st.text(alphabet="0123456789.-e+_ nxif", max_size=400))
def test_any_text_for_a_number_is_accepted_or_refused(given_: str) -> None:
    for name in ("deadline", "max-connections", "udp-budget"):
        type_ = BY_NAME[name].type
        try:
            value = type_.read(type_.literal(given_))
        except ConfigError:
            continue
        assert math.isfinite(value)


def test_text_must_be_text() -> None:
    assert BY_NAME["greeting"].type.read("x") == "x"
    with pytest.raises(ConfigError, match="must be text, not 5"):
        BY_NAME["greeting"].type.read(5)


def test_each_field_of_settings_comes_from_a_record() -> None:
    made = {"listeners", "greeter", "greeter_option"}
    fields = {each.name for each in attrs.fields(Settings)} - made
    in_file = {setting.attribute for setting in SETTINGS if Place.FILE in setting.places}
    in_listen = {setting.attribute for setting in SETTINGS if Place.LISTEN in setting.places}
    assert fields == in_file - in_listen - {"listen"}
    assert in_listen == {"endpoint", "greeting", "greeter", "encoding"}


def test_each_record_has_a_printable_one_line_help() -> None:
    for setting in SETTINGS:
        assert setting.meaning
        assert f"{setting.option} {setting.help}".isprintable()


def test_each_default_is_a_value_that_the_setting_accepts() -> None:
    found = settings({})
    for setting in SETTINGS:
        if setting.default is not None:
            value = setting.type.read(setting.default)
            assert getattr(found, setting.attribute, value) == value


def test_a_reload_takes_everything_but_the_client_ca() -> None:
    assert [setting.name for setting in SETTINGS if Place.FILE in setting.places and not setting.reload] == [
        "client-ca"
    ]


def test_the_help_has_each_option_with_its_metavar_meaning_and_default() -> None:
    shown_help = " ".join(str(Options()).split())
    for setting in SETTINGS:
        if Place.COMMAND_LINE in setting.places:
            assert f"{setting.option} {setting.help}" in shown_help


def _option_rows(document: str) -> Iterator[tuple[str, str]]:
    """The option and the default in each row of the tables whose columns end with "default"."""
    in_table = False
    for line in (CHECKOUT / document).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        in_table = bool(cells) and (in_table or (cells[0], cells[-1]) == ("option", "default"))
        if in_table and cells[0].startswith("`"):
            for option in re.findall("`([^`]*)`", cells[0]):
                yield option, cells[-1].replace("`", "")


@pytest.mark.parametrize("document", ["README.md", "docs/deploy.md"])
def test_the_tables_of_options_agree_with_the_records(document: str) -> None:
    records = {each.option: each.shown_default for each in SETTINGS if Place.COMMAND_LINE in each.places}
    rows = dict(_option_rows(document))
    assert rows
    assert {option: records.get(option) for option in rows} == rows
    if document == "README.md":
        assert list(rows) == list(records)


def test_what_is_commented_out_in_the_shipped_file_is_the_default() -> None:
    lines = (CHECKOUT / "deploy" / "greetsvc.toml").read_text("utf-8").splitlines()
    commented = [line.removeprefix("# ") for line in lines if re.match(r"# [a-z-]+ = ", line)]
    assert len(commented) >= 5
    for name, value in tomllib.loads("\n".join(commented)).items():
        assert BY_NAME[name].shown_default.split(";")[0] == str(value)


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_stays_as_it_is(line: str) -> None:
    assert escaped(line).isprintable()
    assert escaped(escaped(line)) == escaped(line)
    assert str(ConfigError(line)) == escaped(line)
    if line.isprintable():
        assert escaped(line) == line


def test_a_long_value_is_cut_in_an_error_message() -> None:
    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) < 310
    assert shown(1 << 50_000) == "a number of thousands of digits"
