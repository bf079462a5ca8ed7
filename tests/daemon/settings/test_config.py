"""The command line and a TOML file together make the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.daemon.settings.config import read_toml, settings
from greetsvc.daemon.settings.table import SETTINGS, Place, Settings
from greetsvc.daemon.tap import Options
from greetsvc.errors import ConfigError, reason_of
from greetsvc.visit import Address, Visit

_IN_FILE = [each.name for each in SETTINGS if Place.FILE in each.places and each.name != "listen"]
VISIT = Visit("tcp", Address("192.0.2.1", 5), Address("", 0))


def _greetings(found: Settings) -> list[bytes]:
    return [one.greeter.greet(VISIT) for one in found.listeners]


def test_an_empty_file_means_the_defaults() -> None:
    found = settings({}, (), {}, "x.toml")
    assert (found.listeners, found.greeter_option, found.deadline) == ((), r"text:Thank you for connecting\r\n", 10.0)
    assert found.greeter.greet(VISIT) == b"Thank you for connecting\r\n"


def test_the_keys_of_a_file_are_the_option_names() -> None:
    file = {"deadline": 3, "max-connections": 7, "trust-proxy": ["10.0.0.0/8"], "log-visits": "off", "greeting": "Hi"}
    found = settings({}, (), file, "x.toml")
    assert (found.deadline, found.max_connections, found.log_visits) == (3.0, 7, "off")
    assert found.greeter_option == "text:Hi"
    assert [str(network) for network in found.trust_proxy] == ["10.0.0.0/8"]


def test_the_command_line_wins() -> None:
    found = settings(
        {"deadline": 1, "greeting": "mine"}, (), {"deadline": 2, "greeting": "its", "drain": 3}, "x.toml"
    )
    assert (found.deadline, found.drain, found.greeter_option) == (1.0, 3.0, "text:mine")


def test_a_greeter_on_the_command_line_wins_over_a_greeting_in_the_file() -> None:
    assert settings({"greeter": "daytime"}, (), {"greeting": "its"}, "x.toml").greeter_option == "daytime"
    assert settings({"greeting": "mine"}, (), {"greeter": "daytime"}, "x.toml").greeter_option == "text:mine"


def test_each_listen_table_may_have_its_own_greeting_greeter_and_encoding() -> None:
    file: dict[str, Any] = {
        "greeting": "all {peer_host}",
        "encoding": "utf-16-le",
        "listen": [
            {"endpoint": "tcp:1"},
            {"endpoint": "tcp:2", "greeting": "two"},
            {"endpoint": "udp:3", "greeter": "text:three", "encoding": "ascii"},
            {"endpoint": "udp:4", "encoding": "ascii"},
            "unix:/x",
        ],
    }
    found = settings({}, (), file, "x.toml")
    assert _greetings(found) == [
        "all 192.0.2.1".encode("utf-16-le"),
        "two".encode("utf-16-le"),
        b"three",
        b"all 192.0.2.1",
        "all 192.0.2.1".encode("utf-16-le"),
    ]
    assert [one.endpoint.text for one in found.listeners] == ["tcp:1", "tcp:2", "udp:3", "udp:4", "unix:/x"]
    assert [one.where for one in found.listeners][:2] == ["x.toml: listen 1", "x.toml: listen 2"]


def test_the_command_line_wins_over_every_listen_table() -> None:
    file = {"listen": [{"endpoint": "tcp:1", "greeting": "two", "encoding": "utf-16"}]}
    found = settings({"greeting": "mine", "encoding": "ascii"}, (), file, "x.toml")
    assert _greetings(found) == [b"mine"]


def test_a_listen_on_the_command_line_replaces_all_of_the_file() -> None:
    file = {"listen": [{"endpoint": "tcp:1"}, {"endpoint": "tcp:2"}], "greeting": "its"}
    found = settings({}, ["udp:9"], file, "x.toml")
    assert [one.endpoint.text for one in found.listeners] == ["udp:9"]
    assert _greetings(found) == [b"its"]


@pytest.mark.parametrize(
    ("options", "listen", "file", "says"),
    [
        ({}, ["udp:9"], {"listen": [{"endpoint": "tcp:99999"}]}, "listen 1: endpoint: .*99999"),
        ({}, ["udp:9"], {"listen": ["udp:8", {"endpoint": "udp:9", "encoding": "x"}]}, "listen 2: encoding: .*'x'"),
        ({}, ["udp:9"], {"listen": ["nonesuch:8"]}, "listen 1: there is no endpoint kind 'nonesuch'; known are"),
        ({}, ["udp:9"], {"listen": [{"greeting": "x"}]}, "listen 1: endpoint is missing"),
        ({"deadline": 1}, (), {"deadline": "bad"}, "deadline: must be"),
        ({"greeting": "hello"}, (), {"greeting": "{nobody}"}, "greeting: .*nobody"),
        ({"greeter": "daytime"}, (), {"greeter": "file:/nonesuch"}, "greeter: .*/nonesuch"),
        ({"encoding": "latin-1"}, (), {"encoding": "x"}, "encoding: .*'x'"),
        ({"log-visits": "off"}, (), {"log-visits": "some"}, "log-visits: .*'some'"),
        ({}, ["udp:9"], {"colour": 1}, "colour: unknown"),
    ],
)
def test_a_file_is_checked_where_the_command_line_replaces_it(
    options: dict[str, Any], listen: Sequence[str], file: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=f"^x.toml: {says}"):
        settings(options, listen, file, "x.toml")


def test_the_command_line_replaces_what_is_right_in_the_file() -> None:
    found = settings(
        {"deadline": 1, "greeting": "told"}, ["udp:9"], {"deadline": 2, "listen": ["tcp:8"], "greeter": "path"}
    )
    assert found.deadline == 1.0
    assert [one.endpoint.text for one in found.listeners] == ["udp:9"]
    assert _greetings(found) == [b"told"]


@pytest.mark.parametrize("content", ["drain = 3\n", "\n[[listen]]\nendpoint = 'udp:0'\n", "# nothing\n", ""])
def test_a_byte_order_mark_is_no_part_of_a_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = read_toml(str(path))
    path.write_text(content)
    assert found == read_toml(str(path))


@pytest.mark.parametrize(
    "content",
    [
        ".".join("a" * 30_000) + "=1",
        "[" + ".".join("a" * 30_000) + "]",
        "x = {" + " . ".join(["'a'"] * 10_000) + "=1}",
        '"a b".' * 10_000 + "c = 1",
        "".join(f"{'a.' * 120}b{number} = 1\n" for number in range(200)),
        "".join(f"a.b{number} = 1\n" for number in range(200_000)),
    ],
)
def test_a_file_of_many_or_deep_keys_is_refused_without_parsing_it(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(content)
    monkeypatch.setattr("tomllib.loads", lambda _text: pytest.fail("it is parsed"))
    with pytest.raises(ConfigError, match=r"x.toml: (a key in it has a hundred parts|is longer than 65536 bytes)"):
        read_toml(str(path))


@pytest.mark.parametrize(
    "greeting", ["9." * 90 + "ip6.arpa", "One two. Three four. " * 200, "." * 5000, "a" * 50_000, "-" * 50_000]
)
def test_a_greeting_with_dots_is_no_deep_key(greeting: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"greeting = '{greeting}'")
    assert read_toml(str(path)) == {"greeting": greeting}


@pytest.mark.parametrize(
    ("listen", "file"),
    [
        ((), {"x" * 60_000: 1}),
        ((), {"listen": [{"x" * 60_000: 1}]}),
        ((), {"encoding": "x" * 60_000}),
        ((), {"greeting": "{" + "x" * 60_000 + "}"}),
        ((), {"greeter": "x" * 60_000}),
        ((), {"trust-proxy": ["x" * 60_000]}),
        (("tcp:" + "9" * 60_000,), {}),
        (("x y" * 20_000,), {}),
        (("proxy:" * 10_000,), {}),
        ((f"unix:/x:mode={'7' * 60_000}",), {}),
    ],
)
def test_an_error_does_not_quote_a_value_of_any_length(listen: Sequence[str], file: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({}, listen, file, "x.toml")
    assert len(str(caught.value)) <= 800
    assert str(caught.value).startswith(("x.toml: ", "--listen"))


def test_a_file_is_read_as_toml_in_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('greeting = "Grüße"\n[[listen]]\nendpoint = "tcp:0"\n', "utf-8")
    assert read_toml(str(path)) == {"greeting": "Grüße", "listen": [{"endpoint": "tcp:0"}]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x = ", "Invalid"),
        (b"\xff\xfe", "utf-8"),
        (b"x = " + b"[" * 100_000, ""),
        (b"#" * (64 * 1024 + 1), "longer than"),
        (b"x = " + b"9" * 5000, "4300"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_by_name(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(str(path))
    assert str(caught.value).startswith(f"--config: {path}: ")
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["missing.toml", "", "a\0b", "two\nlines"])
def test_a_file_that_cannot_be_opened_is_refused_by_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--config: ") as caught:
        read_toml(path)
    assert str(caught.value).isprintable()


def test_a_very_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        settings({}, (), {"deadline": "x" * 10_000}, "x.toml")
    assert str(caught.value).startswith("x.toml: deadline: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "value", [1 << 20_000, -(1 << 2000), [1 << 20_000], {"a": 1 << 20_000}], ids=["long", "low", "list", "table"]
)
@pytest.mark.parametrize("name", ["deadline", "max-connections", "greeting", "trust-proxy", "colour", "listen"])
def test_a_number_of_any_size_is_a_config_error(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"x.toml: {name}"):
        settings({}, (), {name: value}, "x.toml")


def test_the_reason_of_any_error_is_one_line() -> None:
    assert reason_of(ValueError("a\n  b\r\nc")) == "a b c"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(OSError("no errno")) == "no errno"
    assert reason_of(FileNotFoundError(2, "No such file", "/x\n")) == r"No such file: '/x\n'"
    assert reason_of(OSError(22, "Invalid")) == "Invalid"


_SCALARS = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.datetimes(),
    st.dates(),
    st.sampled_from(["tcp:0", "udp:0", "file:", "daytime", "utf-8", "all", "json", "{number}", "{", "10.0.0.0/8"]),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_KEYS = st.one_of(st.sampled_from([*_IN_FILE, "listen"]), st.text(max_size=8))
_TABLE = st.dictionaries(
    st.one_of(st.sampled_from(["endpoint", "greeting", "greeter", "encoding"]), st.text(max_size=5)), _SCALARS
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.lists(_TABLE, max_size=2))
def test_any_file_makes_settings_or_one_printable_line_that_names_the_file(
    file: dict[str, Any], tables: list[dict[str, Any]]
) -> None:
    if tables:
        file = {**file, "listen": tables}
    try:
        found = settings({}, (), file, "x.toml")
    except ConfigError as error:
        line = str(error)
        assert line.isprintable()
        assert line.startswith("x.toml: ")
        assert len(line) < 1500
    else:
        assert isinstance(found, Settings)


@given(st.sampled_from(_IN_FILE), _VALUES)
def test_an_error_names_the_key(name: str, value: object) -> None:
    try:
        settings({}, (), {name: value}, "x.toml")
    except ConfigError as error:
        assert str(error).startswith(f"x.toml: {name}: ")  # noqa: PT017


def test_the_options_report_an_error_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("deadline = 'soon'", "utf-8")
    options = Options()
    options.parseOptions(["--config", str(path)])
    with pytest.raises(ConfigError, match=f"^{path}: deadline: must be .*'soon'$"):
        options.settings()


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"dedline": 5}, "dedline: unknown setting (value 5); did you mean deadline?"),
        ({"LOG_FORMAT": "json"}, "LOG_FORMAT: unknown setting (value 'json'); did you mean log-format?"),
        ({"xyzzy": 1}, "xyzzy: unknown setting (value 1)"),
        (
            {"listen": [{"endpoint": "tcp:0", "greting": "x"}]},
            "listen 1: greting: unknown setting in a [[listen]] table (value 'x'); did you mean greeting?",
        ),
    ],
)
def test_an_unknown_setting_names_the_nearest(file: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({}, (), file, "x.toml")
    assert str(caught.value) == f"x.toml: {told}"
