"""--expect with greetings that make the pattern take for ever: time-out, signals, statuses and summaries hold."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import Any

import pytest
import pytest_twisted

from greetsvc import Run
from tests.support.greet import FORKED

EVIL = b"a" * 40 + b"!"
PATTERN = "^(a+)+$"


@pytest.fixture
def target(peers: Any) -> str:
    return str(peers.stream(lambda connection: connection.sendall(EVIL)))


def greet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FORKED, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_a_single_probe(target: str) -> None:
    done = greet("-t", "1", "--expect", PATTERN, target)
    assert (done.returncode, done.stdout) == (1, EVIL.decode() + "\n")
    assert done.stderr == f"greet: tcp:{target}: not as expected: matching took too long\n"


def test_datagrams(peers: Any) -> None:
    target = peers.datagram(lambda sock, data, sender: sock.sendto(EVIL, sender))
    done = greet("--json", "--expect", "(x|a|b|aa)+$", target)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "not as expected: matching took too long"


def test_a_series_and_flows(target: str) -> None:
    done = greet("-c", "2", "-i", "0", "--expect", PATTERN, "-t", "1", target)
    assert done.returncode == 1
    assert done.stderr.count("not as expected: matching took too long") == 2
    assert "2 sent, 2 greeted, 0 lost" in done.stdout
    done = greet("--flows", "2", "-c", "1", "--expect", PATTERN, "-t", "1", target)
    assert done.returncode == 1
    assert "2 sent, 2 greeted, 0 lost" in done.stdout


def test_monitoring(target: str) -> None:
    done = greet("--nagios", "--expect", PATTERN, target)
    assert done.returncode == 1
    assert "GREET WARNING" in done.stdout
    assert "not as expected: matching took too long | time=" in done.stdout
    assert greet("--healthcheck", "--expect", PATTERN, target).returncode == 1


@pytest.mark.parametrize("rate", [[], ["--rate", "50"]])
def test_a_load_run(peers: Any, target: str, rate: list[str]) -> None:
    done = greet("--json", "--duration", "1", "--concurrency", "4", *rate, "--expect", PATTERN, target)
    assert done.returncode == 1
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert summary["flawed"] == summary["greeted"] > 0


@pytest_twisted.ensureDeferred
async def test_a_load_run_from_python_whose_greetings_all_differ(peers: Any) -> None:
    number = iter(range(10**9))
    target = peers.stream(lambda connection: connection.sendall(b"a" * (40 + next(number)) + b"!"))
    run = Run(target, duration=0.5, concurrency=4, expect=re.compile(PATTERN))
    await run.go()
    assert run.metrics.flawed == run.metrics.greeted > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_series(target: str, number: int) -> None:
    with subprocess.Popen(
        [FORKED, "-c", "0", "-i", "0", "-t", "5", "--expect", PATTERN, target],
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        running.send_signal(number)
        out, _ = running.communicate(timeout=20)
    assert "greeted" in out
    assert running.returncode == 1


def test_a_good_greeting_is_as_expected(peers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall(b"aaaa\r\n"))
    done = greet("-c", "20", "-i", "0", "--expect", PATTERN, target)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_came_while_a_pattern_took_long_is_not_lost(peers: Any) -> None:
    """A time-out that is shorter than the matching: the other probes' greetings have arrived meanwhile."""
    number = iter(range(10**9))
    target = peers.datagram(lambda sock, data, sender: sock.sendto(b"a" * (40 + next(number)) + b"!", sender))
    for arguments in (["--flows", "4", "-c", "1"], ["--duration", "1", "--concurrency", "8"]):
        done = greet("--json", "-t", "0.5", "--expect", PATTERN, *arguments, target)
        summary = json.loads(done.stdout.splitlines()[-1])["summary"]
        assert (done.returncode, summary["lost"]) == (1, 0), done.stdout
