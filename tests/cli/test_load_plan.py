"""`greet --duration` from the command line: wrong usage, the summary after Ctrl-C, a reader that leaves."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from greetsvc.cli import command as cli
from greetsvc.cli.load_plan import LoadPlan
from greetsvc.cli.plan import ProbePlan
from greetsvc.client.load.pacing import LoadOptions
from greetsvc.client.load.run import Run
from greetsvc.client.report.terminal import Terminal
from greetsvc.client.stats import RunStats
from greetsvc.console import Output
from greetsvc.net.descriptors import raise_limit
from tests.support.greet import FORKED

LOAD = ["--duration", "1"]

WRONG = [
    (["--duration", "0"], "--duration 0: must be a number above 0, at most 86400"),
    (["--duration", "inf"], "--duration inf: must be a number above 0, at most 86400"),
    ([*LOAD, "--rate", "0"], "--rate 0: must be a number above 0, at most 1000000"),
    ([*LOAD, "--rate", "-1"], "--rate -1: must be a number above 0, at most 1000000"),
    ([*LOAD, "--concurrency", "0"], "--concurrency 0: must be a whole number from 1 to 100000"),
    ([*LOAD, "--concurrency", "1.5"], "--concurrency 1.5: must be a whole number from 1 to 100000"),
    (["--rate", "5"], "--rate 5: needs --duration"),
    (["--concurrency", "5"], "--concurrency 5: needs --duration"),
    ([*LOAD, "-c", "3"], "-c: cannot be combined with --duration"),
    ([*LOAD, "-c", "1"], "-c: cannot be combined with --duration"),
    ([*LOAD, "-i", "1"], "-i: cannot be combined with --duration"),
    ([*LOAD, "-v"], "-v: cannot be combined with --duration"),
    ([*LOAD, "--nagios"], "--nagios: cannot be combined with --duration"),
    ([*LOAD, "--healthcheck"], "--healthcheck: cannot be combined with --duration"),
    ([*LOAD, "--flows", "2"], "--flows: cannot be combined with --duration"),
    ([*LOAD, "--source-port", "2"], "--source-port: cannot be combined with --duration"),
    ([*LOAD, "--dscp", "2"], "--dscp: cannot be combined with --duration"),
    ([*LOAD, "--proxy-v2", "192.0.2.1:1"], "--proxy-v2: cannot be combined with --duration"),
    ([*LOAD, "-4", "[::1]:1"], "-4 tcp:[::1]:1: the address is IPv6, not IPv4"),
    ([*LOAD, "--ca", "x"], "--ca x: needs a tls: target, not tcp:127.0.0.1:8088"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong_usage_is_one_line_and_status_3(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["greet", *arguments])
    assert cli.main() == 3
    assert capsys.readouterr() == ("", f"greet: {line}\n")


def test_more_at_once_than_files_may_be_open_is_wrong_usage() -> None:
    limited = ["sh", "-c", f"ulimit -n 100; exec {FORKED} --duration 1 --concurrency 1000"]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert re.fullmatch(
        r"greet: --concurrency 1000: this process may open too few files for it: \d\d besides .*\n", done.stderr
    )


@pytest.fixture
def hello(peers: Any) -> str:
    target: str = peers.stream(lambda connection: connection.sendall(b"hello\r\n"))
    return target


def greet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FORKED, *arguments], capture_output=True, text=True, timeout=60, check=False)


def unexpected(stderr: str) -> list[str]:
    """Lines on standard error, but for the warning that a busy machine starts probes late."""
    return [line for line in stderr.splitlines() if "of the probes started more than 10 ms late" not in line]


class Screen(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


async def carried_out(plan: LoadPlan) -> tuple[int, str, str]:
    """The status, and what was written on standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    stats = RunStats()
    await plan.run(Output(out, err), stats, reactor, time.monotonic)
    return stats.status, out.getvalue(), err.getvalue()


def load(target: str, duration: float = 0.2) -> Run:
    return Run(target, duration=duration, concurrency=2)


def test_options_reach_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Any] = []

    def drive(plan: Any, _: object) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(cli, "drive", drive)
    monkeypatch.setattr("greetsvc.net.descriptors.raise_limit", lambda: None)
    for options in (["--duration", "2", "--concurrency", "3", "--json"], ["--duration", "2", "--rate", ".5"], []):
        monkeypatch.setattr(sys, "argv", ["greet", *options, "udp:127.0.0.1"])
        assert cli.main() == 0
    closed, opened, plain = plans
    assert (closed.load.concurrency, closed.load.load_options, closed.as_json) == (3, LoadOptions(2, 3), True)
    assert (opened.load.load_options, opened.terminal) == (LoadOptions(2, None, 0.5), None)
    assert isinstance(plain, ProbePlan)


@pytest_twisted.ensureDeferred
async def test_a_load_plan_runs_and_is_reported(hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = await carried_out(LoadPlan(load(hello)))
    assert status == 0
    assert not err or "likely the limit" in err  # a closed loop takes what the processor has
    assert out.startswith(f"tcp:{hello}: 2 at a time for 0.2 s\n")
    assert " sent, " in out
    status, out, _ = await carried_out(LoadPlan(load(hello), as_json=True, terminal=Terminal()))
    assert "summary" in json.loads(out.splitlines()[-1])
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    status, out, _ = await carried_out(LoadPlan(load(hello, 0.6), terminal=Terminal()))
    assert status == 0
    assert "█" in out
    assert "of 0.6 s" in screen.getvalue()


@pytest_twisted.ensureDeferred
async def test_a_plan_for_a_name_that_is_not_there_fails_at_resolve() -> None:
    status, _, err = await carried_out(LoadPlan(load("no-such-name.invalid")))
    assert status == 2
    assert err.startswith("greet: tcp:no-such-name.invalid:8088: resolve: ")


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
        raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_in_a_pipe_it_is_plain_text(hello: str) -> None:
    done = greet("--duration", "1.2", "--rate", "50", hello)
    assert (done.returncode, unexpected(done.stderr)) == (0, [])
    lines = done.stdout.splitlines()
    assert lines[0] == f"tcp:{hello}: 50 a second, at most 1024 at a time, for 1.2 s"
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    assert lines[5].startswith("60 sent, 60 greeted, 0 lost (0 %), ")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_json_is_an_object_a_second_and_the_summary(hello: str) -> None:
    done = greet("--duration", "0.5", "--concurrency", "2", "--json", "--expect", "goodbye", hello)
    *seconds, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert sum(second["second"]["greeted"] for second in seconds) == summary["summary"]["greeted"] > 0
    assert summary["summary"]["flawed"] == summary["summary"]["greeted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_load_run_with_the_summary_so_far(hello: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        # At a rate that no machine finds hard, and with room for a second in which it does nothing: else the client
        # may say that it was the limit itself.
        [FORKED, "--duration", "60", "--rate", "50", "--concurrency", "50", hello],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        for _ in range(3):
            running.stdout.readline()
        running.send_signal(number)
        rest = running.stdout.read()
        assert unexpected(running.stderr.read()) == []
        assert running.wait(30) == 0
    assert re.search(r"\n(\d+) sent, \1 greeted, 0 lost \(0 %\), ", rest)
    assert re.search(r"\nstopped after [1-9]\.\d{3} s with [0-9]+ in flight\n", rest)


def test_a_name_that_is_not_there_is_status_2_at_resolve() -> None:
    done = greet("--duration", "1", "no-such-name.invalid")
    assert done.returncode == 2
    assert done.stderr.startswith("greet: tcp:no-such-name.invalid:8088: resolve: ")


def test_no_greeting_at_all_is_status_2(free_port: int) -> None:
    done = greet("--duration", "0.2", f"127.0.0.1:{free_port}")
    assert done.returncode == 2
    assert "connect: Connection refused (ECONNREFUSED): " in done.stdout


def test_a_reader_that_leaves_ends_the_run_quietly(hello: str) -> None:
    with subprocess.Popen(
        [FORKED, "--duration", "60", "--rate", "20", hello], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == 0
