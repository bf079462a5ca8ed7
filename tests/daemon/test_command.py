"""The command ``greetsvc``: twistd in the foreground, with exit status 0 on SIGTERM and SIGINT."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from twisted.python import usage
from twisted.scripts import _twistd_unix

from greetsvc.daemon import command
from greetsvc.daemon.tap import Options


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--listen", "tcp:0:interface=127.0.0.1", "8088"], "'8088'"),
        (["two", "words"], "'two'"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["greetsvc", *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert str(caught.value).startswith("greetsvc: ")
    assert says in str(caught.value)


def test_twistd_is_run_in_the_foreground_without_a_pid_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    class Runner:
        def __init__(self, config: Any) -> None:
            self.config = config

        def run(self) -> None:
            ran.append(self.config)

    monkeypatch.setattr(command, "_Runner", Runner)
    monkeypatch.setattr(sys, "argv", ["greetsvc", "--listen", "tcp:0", "--drain", "1"])
    command.main()
    (config,) = ran
    assert isinstance(config, _twistd_unix.ServerOptions)
    assert config["nodaemon"]
    assert config["pidfile"] == ""
    assert config.subCommand == "greetsvc"
    options: Any = config.subOptions
    assert isinstance(options, Options)
    assert options.settings().drain == 1.0


def test_a_usage_error_of_twistd_itself_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(command._Options):
        def parseOptions(self, options: Any = None) -> None:
            raise usage.UsageError("option --what not recognized")

    monkeypatch.setattr(command, "_Options", Refuses)
    with pytest.raises(SystemExit, match=r"^greetsvc: option --what not recognized$"):
        command.main()
