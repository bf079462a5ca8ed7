"""The command line of `twistd greetsvc`, in this process: which is accepted, and which ends in one line."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import twisted
from greetsvc import __version__
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.table import Settings
from greetsvc.daemon.tap import Options, makeService, refuse
from greetsvc.errors import ConfigError

CERTIFICATE = str(Path(twisted.__file__).parent / "test" / "server.pem")


ROWS: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("bad_settings.toml").read_text("utf-8"))["row"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _made(*arguments: str) -> GreetingService:
    options = Options()
    options.parseOptions(list(arguments))
    return makeService(options)


def _settings(*arguments: str) -> Settings:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings()


def _name(row: dict[str, Any]) -> str:
    return str(" ".join(row["options"]) if "options" in row else row["file"]).encode("unicode_escape").decode()[:50]


def test_the_table_of_bad_settings_has_at_least_sixty_rows() -> None:
    assert len(ROWS) >= 60
    assert all({"says"} < set(row) <= {"options", "file", "says"} for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_a_bad_setting_ends_in_one_line_that_names_it_and_nothing_is_left_bound(
    row: dict[str, Any], tmp_path: Path
) -> None:
    port = _free_port()
    good = f"tcp:{port}:interface=127.0.0.1"

    def filled(text: str) -> str:
        return text.replace("{dir}", str(tmp_path)).replace("{good}", good)

    arguments = [filled(option) for option in row.get("options", ())]
    if "file" in row:
        (tmp_path / "greetsvc.toml").write_text(filled(row["file"]), "utf-8")
        arguments += ["--config", str(tmp_path / "greetsvc.toml")]
    if "options" in row and "file" in row:
        pass
    elif "{good}" not in row.get("file", ""):
        arguments = ["--listen", good, *arguments]
    if "options" not in row and ("[listen" in row["file"] or "listen = " in row["file"]):
        arguments = [each for each in arguments if each not in {"--listen", good}]
    with pytest.raises(SystemExit) as caught:
        _made(*arguments)
    message = caught.value.code
    assert isinstance(message, str), "text, so that the exit status is 1"
    assert message.startswith("greetsvc: ")
    assert message.isprintable()
    assert len(message) < 1000
    assert [filled(each) for each in row["says"] if filled(each) not in message] == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
    assert not [path for path in tmp_path.iterdir() if path.is_socket()]


def test_a_busy_port_is_named_and_sockets_that_were_already_bound_are_closed(tmp_path: Path) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
            path = tmp_path / "greet.sock"
            with pytest.raises(SystemExit) as caught:
                _made(
                    *("--listen", f"unix:{path}", "--listen", f"unixgram:{path}2"),
                    *("--listen", "udp:0:interface=127.0.0.1"),
                    *("--listen", f"{protocol}:{port}:interface=127.0.0.1"),
                )
            assert str(caught.value) == (
                f"greetsvc: --listen {protocol}:{port}:interface=127.0.0.1: "
                f"cannot listen on 127.0.0.1, port {port}: Address already in use"
            )
            assert not list(tmp_path.iterdir())


def test_a_unix_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "greet.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(SystemExit) as caught:
            _made("--listen", f"unix:{path}")
        assert str(caught.value) == f"greetsvc: --listen unix:{path}: cannot listen on {path}: Address already in use"
        assert path.is_socket()


def test_an_empty_command_line_means_the_defaults() -> None:
    assert _settings().listeners == ()
    assert _settings().deadline == 10.0


def test_every_option_is_read() -> None:
    found = _settings(
        *("--listen", "tcp:0", "--listen", "udp:0", "--greeting", "Hi", "--encoding", "latin1"),
        *("--deadline", "3", "--linger", ".5", "--drain=0", "--max-connections", "7", "--max-per-source", "2"),
        *("--udp-budget", "0", "--trust-proxy", "10.0.0.0/8", "--trust-proxy", "2001:db8::/32"),
        *("--client-ca", CERTIFICATE, "--log-visits", "off", "--log-format", "json"),
    )
    assert [one.endpoint.text for one in found.listeners] == ["tcp:0", "udp:0"]
    assert [one.greeter_option for one in found.listeners] == ["text:Hi", "text:Hi"]
    assert (found.deadline, found.linger, found.drain) == (3.0, 0.5, 0.0)
    assert (found.max_connections, found.max_per_source, found.udp_budget) == (7, 2, 0)
    assert [str(network) for network in found.trust_proxy] == ["10.0.0.0/8", "2001:db8::/32"]
    assert (found.client_ca, found.log_visits, found.log_format) == (CERTIFICATE, "off", "json")


def test_check_prints_a_line_for_each_listener_and_leaves_nothing_bound(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    port = _free_port()
    with pytest.raises(SystemExit) as caught:
        _made(
            *("--check", "--greeting", "two\nlines"),
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", f"unixgram:{tmp_path}/x"),
        )
    assert caught.value.code == 0
    assert capsys.readouterr().out == (
        f"tcp port: {port} (127.0.0.1) says text:two\\nlines\nunixgram path: {tmp_path}/x says text:two\\nlines\n"
    )
    assert not list(tmp_path.iterdir())


def test_list_prints_a_line_for_each_greeter_and_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _settings("--list")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        *(f"greeter {name}" for name in ("daytime", "file", "fortune", "path", "text")),
        *(f"protocol {name}" for name in ("int32", "lines", "netstring", "once", "websocket")),
    ]


def test_version_prints_the_version_of_greetsvc(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _settings("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"greetsvc {__version__}\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("--hlep", "--help"), ("--lisen=tcp:0", "--listen"), ("--max-conections", "--max-connections")],
)
def test_an_option_that_is_nearly_right_is_answered_with_the_right_one(given: str, meant: str) -> None:
    with pytest.raises(SystemExit, match=rf"^greetsvc: option --[^ =]+ not recognized; did you mean {meant}\?$"):
        Options().parseOptions([given])


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_answered_whatever_else_is_given(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _settings(option, "8088", "--deadline", "soon")
    assert not caught.value.code
    assert "  --deadline S " in capsys.readouterr().out


@given(st.text())
def test_whatever_an_error_quotes_it_is_one_printable_line(text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        refuse(text)
    assert str(caught.value).isprintable()


_NAMES = st.sampled_from(
    ["greeting", "greeter", "encoding", "deadline", "max-connections", "udp-budget", "trust-proxy", "log-visits"]
)


@given(st.lists(st.tuples(_NAMES, st.text(max_size=12)), max_size=4))
def test_any_command_line_makes_settings_or_one_line(given_: list[tuple[str, str]]) -> None:
    try:
        found = _settings(*(f"--{name}={value}" for name, value in given_))
    except (SystemExit, ConfigError) as end:
        line = str(end)
        assert line.isprintable()
        assert any(f"--{name}" in line for name, _ in given_)
    else:
        assert isinstance(found, Settings)
