"""The command ``greetsvc``, in process; tests/system runs the real one."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from greetsvc import __main__ as command


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that were run, in place of running them."""
    configurations: list[Any] = []

    class Runner:
        def __init__(self, config: Any) -> None:
            self.config = config

        def run(self) -> None:
            configurations.append(self.config)

    monkeypatch.setattr(command, "UnixApplicationRunner", Runner)
    return configurations


def test_it_is_twistd_in_the_foreground_without_a_pid_file(monkeypatch: pytest.MonkeyPatch, ran: list[Any]) -> None:
    monkeypatch.setattr(sys, "argv", ["greetsvc", "--listen", "tcp:0", "--drain", "1"])
    command.main()
    (config,) = ran
    assert (config["nodaemon"], config["pidfile"]) == (1, "")
    assert config.subCommand == "greetsvc"
    assert config.subOptions["drain"] == "1"


@pytest.mark.parametrize("wrong", ["--nonesuch", "extra"])
def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, ran: list[Any], wrong: str) -> None:
    monkeypatch.setattr(sys, "argv", ["greetsvc", wrong])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert str(refused.value).startswith("greetsvc: ")
    assert "\n" not in str(refused.value)
    assert not ran
