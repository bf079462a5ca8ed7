"""SIGHUP a hundred times under load, and a service manager that watches, restarts and keeps descriptors."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import issue
from tests.support.supervisor import Supervisor

if TYPE_CHECKING:
    from tests.support.installed import Installed

pytestmark = pytest.mark.lab

RELOADS = 100
RATES = {"tcp": 200, "udp": 200, "unix": 200, "tls": 30}
"""Visits a second: few enough for two busy cores, so that nothing piles up."""
SECONDS = 120
"""Longer than the reloads take: then the load is stopped."""
PAUSE = 0.05
"""Seconds of load between two reloads."""
GROWTH = 5 * 2**20
"""Bytes that memory may grow between the 20th and the last reload."""

LISTEN = """
listen = [
    "tcp:0:interface=127.0.0.1",
    "udp:0:interface=127.0.0.1",
    "unix:{folder}/greet.sock",
    'tls:{folder}/tls:port=0:interface=127.0.0.1',
    {more}
]
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A service manager that watches."""
    one = Supervisor(tmp_path, watchdog=2.0)
    yield one
    one.close()


def test_a_hundred_reloads_under_load_lose_nothing_and_take_no_memory(
    installed: Installed, supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "localhost.pem").write_bytes(issue("localhost", "localhost").both_pem)
    config = tmp_path / "greet.toml"

    def write(number: int) -> None:
        if number % 2:
            config.write_text("greeting = 'never said'\ndeadline = 'soon'\n")
            return
        more = f'"unix:{tmp_path}/other.sock",' if number % 4 else ""
        listen = LISTEN.format(folder=tmp_path, more=more)
        config.write_text(
            f"{listen}greeting = 'hello {number}'\nlog-visits = 'off'\nmax-connections = {900 + number}\n"
        )

    write(0)
    program = installed.programs.add(
        supervisor.start(installed.command("greetsvc", "--config", str(config)), installed.environment())
    )
    supervisor.wait_for("READY=1")
    tcp, udp, tls = program.ports(3)
    targets = [f"tcp:127.0.0.1:{tcp}", f"udp:127.0.0.1:{udp}", f"unix:{tmp_path}/greet.sock", f"tls:127.0.0.1:{tls}"]
    loads = [
        installed.start(
            tmp_path, "greet", "--json", "--duration", str(SECONDS), "--rate", str(RATES[target.partition(":")[0]]),
            "--expect", r"^hello \d+$", *(["--insecure"] if "tls" in target else []), target,
        )
        for target in targets
    ]  # fmt: skip
    for load in loads:
        load.wait_for('"second"')
    memory = 0
    for number in range(1, RELOADS + 1):
        write(number)
        program.send_signal(signal.SIGHUP)
        supervisor.wait_for("RELOADING=1")
        supervisor.wait_for("READY=1")
        supervisor.hear(PAUSE)
        if number == 20:
            memory = program.rss()
    assert program.rss() - memory < GROWTH
    for target, load in zip(targets, loads, strict=True):
        assert load.alive(), "the load ended before the last reload"
        load.stop(signal.SIGINT)
        summary = json.loads(load.said().splitlines()[-1])["summary"]
        assert summary["sent"] > 0, target
        assert (summary["lost"], summary["greeted"]) == (0, summary["sent"]), (target, load.said())
    said = program.said()
    assert said.count("The settings were not reloaded, and the old ones stay: ") == RELOADS // 2
    assert said.count("The settings were reloaded") == RELOADS // 2
    assert "Traceback" not in said
    program.stop()
    assert not (tmp_path / "greet.sock").exists()
    assert not (tmp_path / "other.sock").exists()


def test_a_service_that_hangs_is_found_by_the_watchdog(
    installed: Installed, supervisor: Supervisor, tmp_path: Path
) -> None:
    program = installed.programs.add(
        supervisor.start(
            installed.command("greetsvc", "--listen", f"unix:{tmp_path}/greet.sock"), installed.environment()
        )
    )
    supervisor.wait_for("READY=1")
    assert supervisor.watch(program, 2 * supervisor.watchdog)
    program.send_signal(signal.SIGSTOP)
    assert not supervisor.watch(program, 10 * supervisor.watchdog)
    assert program.wait() == -signal.SIGABRT
