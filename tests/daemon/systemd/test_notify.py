"""What a service manager is told: ready, reloading, stopping, alive, and what the service has done."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from twisted.internet.task import Clock

from greetsvc.daemon.systemd.notify import STATUS, ServiceManager, watchdog_interval
from tests.support.supervisor import Supervisor

if TYPE_CHECKING:
    from tests.support.installed import Installed


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    """A service manager with a notify socket of either kind."""
    one = Supervisor(tmp_path, abstract=request.param == "abstract")
    yield one
    one.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_signs_of_life_come_twice_as_often_as_the_manager_waits_for(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_interval(environment, 7) == seconds


def test_a_service_tells_its_life(supervisor: Supervisor) -> None:
    clock, status = Clock(), ["nothing yet"]
    supervisor.watchdog = 4
    manager = ServiceManager(supervisor.environment(), clock, lambda: status[0])
    manager.ready()
    ready = {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "nothing yet"}
    assert supervisor.hear() == ready
    assert supervisor.hear() == {"WATCHDOG": "1"}
    clock.advance(2)
    assert supervisor.hear() == {"WATCHDOG": "1"}
    status[0] = "1 greeted"
    clock.advance(2)
    assert supervisor.hear() == {"WATCHDOG": "1", "STATUS": "1 greeted"}
    before = time.monotonic_ns() // 1000
    manager.reloading()
    message = supervisor.wait_for("RELOADING=1")
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    manager.ready()
    assert supervisor.hear() == {**ready, "STATUS": "1 greeted"}
    manager.stopping(10)
    assert supervisor.hear() == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "15000000"}
    clock.advance(2)
    assert supervisor.hear() == {"WATCHDOG": "1"}
    manager.close()
    assert not clock.getDelayedCalls()


def test_without_a_watchdog_only_news_are_sent(supervisor: Supervisor) -> None:
    clock, status = Clock(), [""]
    manager = ServiceManager(supervisor.environment(), clock, lambda: status[0])
    manager.ready()
    supervisor.hear()
    clock.pump([STATUS] * 3)
    status[0] = "news"
    clock.pump([STATUS] * 3)
    manager.close()
    assert supervisor.hear() == {"STATUS": "news"}
    assert supervisor.hear(0) is None


def test_without_a_manager_nothing_is_done() -> None:
    clock = Clock()
    manager = ServiceManager({"WATCHDOG_USEC": "1000"}, clock, str)
    manager.ready()
    manager.reloading()
    manager.stopping(1)
    manager.close()
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:2:1", "/" + "x" * 200, "@" + "x" * 200, "/a\0b"])
def test_a_manager_that_cannot_be_reached_is_one_line(address: str, log_lines: list[str]) -> None:
    clock = Clock()
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}, clock, str)
    manager.ready()
    clock.pump([1, 1, 1])
    manager.close()
    (line,) = log_lines
    assert line.startswith("The service manager cannot be told how the service is: ")


def test_a_manager_that_went_away_is_one_line_each_time(tmp_path: Path, log_lines: list[str]) -> None:
    supervisor = Supervisor(tmp_path)
    manager = ServiceManager(supervisor.environment(), Clock(), str)
    manager.ready()
    supervisor.close()
    manager.reloading()
    manager.stopping(1)
    assert len(log_lines) == 1
    manager.close()


@pytest.mark.parametrize("times", [0, 1, 2], ids=["in between nothing was said", "once", "twice"])
def test_a_manager_that_comes_back_is_told_again(tmp_path: Path, log_lines: list[str], times: int) -> None:
    supervisor = Supervisor(tmp_path)
    manager = ServiceManager(supervisor.environment(), Clock(), str)
    supervisor.close()
    (tmp_path / "notify").unlink()
    for _ in range(times):
        manager.reloading()
    supervisor = Supervisor(tmp_path)
    manager.stopping(1)
    assert "STOPPING" in (supervisor.hear() or {})
    supervisor.close()
    assert len(log_lines) == min(times, 1)
    manager.close()


def _visit(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as peer, peer.makefile("rb") as stream:
        return stream.read()


def test_the_manager_follows_the_real_program(installed: Installed, tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, watchdog=1.0)
    config = supervisor.folder / "greet.toml"
    config.write_text('listen = ["tcp:0:interface=127.0.0.1"]\ngreeting = "old"\n')
    program = installed.programs.add(
        supervisor.start(installed.command("greetsvc", "--config", str(config)), installed.environment())
    )
    ready = supervisor.wait_for("READY=1")
    assert ready["MAINPID"] == str(program.pid)
    assert ready["STATUS"] == "0 greeted, 0 refused, 0 connections open"
    (port,) = program.ports()
    assert _visit(port) == b"old"
    assert supervisor.wait_for("STATUS")["STATUS"].startswith("1 greeted, ")
    for text, expected in (('greeting = "new"', b"new"), ("greeting = 1", b"new")):
        config.write_text(f'listen = ["tcp:{port}:interface=127.0.0.1"]\n{text}\n')
        program.send_signal(signal.SIGHUP)
        supervisor.wait_for("RELOADING=1")
        supervisor.wait_for("READY=1")
        if expected == b"new" and "1" in text:
            assert "not reloaded" in program.said()
    program.send_signal(signal.SIGTERM)
    supervisor.wait_for("STOPPING=1")
    assert program.wait() == 0
    supervisor.close()
