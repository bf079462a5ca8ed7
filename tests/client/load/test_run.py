"""From Python: series of probes, a run and its histogram, and the examples in the documentation."""

from __future__ import annotations

import re
import resource
import textwrap
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from greetsvc import GreetFailed, Greeting, Run, greet_many
from greetsvc.client import Target
from greetsvc.net import descriptors as files

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def target(peers: Any) -> str:
    made: str = peers.stream(lambda connection: connection.sendall(b"hello\r\n"))
    return made


@pytest_twisted.ensureDeferred
async def test_greetings_come_one_by_one_and_failures_are_not_raised(peers: Any, reset: Any) -> None:
    asked: list[int] = []

    def every_other(connection: Any) -> None:
        asked.append(1)
        if len(asked) % 2:
            connection.sendall(b"hello\r\n")
        else:
            reset(connection)

    found = [result async for result in greet_many(peers.stream(every_other), count=4, interval=0.01)]
    assert [type(result) for result in found] == [Greeting, GreetFailed, Greeting, GreetFailed]


@pytest_twisted.ensureDeferred
async def test_the_loop_can_be_left_at_any_time(target: str) -> None:
    lines: list[str] = []
    number = 0
    async for result in greet_many(Target("tcp", *_address(target)), interval=0, trace=lines.append):
        assert isinstance(result, Greeting)
        number += 1
        if number == 3:
            break
    assert number == 3
    assert lines


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"count": -1}, "count -1: must not be negative"),
        ({"interval": -1}, "interval -1: must be from 0 to 86400 seconds"),
        ({"timeout": 0}, "timeout 0"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_sent(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        greet_many("127.0.0.1", **settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"duration": -1}, "duration -1"),
        ({"duration": 1, "concurrency": 99999}, "this process may open too few files for it"),
        ({"duration": 1, "size": -1}, "size -1"),
        ({"duration": 1, "expect": "("}, r"expect \(: is not a regular expression: missing \)"),
        ({"duration": 1, "family": 6}, "the address is IPv4, not IPv6"),
    ],
)
def test_a_run_with_a_wrong_option_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Run("127.0.0.1", **settings)


@pytest_twisted.ensureDeferred
async def test_a_run_has_its_histogram(target: str) -> None:
    run = await Run(target, duration=0.2, concurrency=2).go()
    assert run.histogram is run.metrics.corrected
    assert run.histogram.count == run.metrics.greeted > 0
    assert (run.histogram.percentile(50) or 0) > 0


def test_without_a_file_limit_the_remaining_descriptors_are_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greetsvc.net.descriptors.resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert files.remaining() == float("inf")


def examples() -> list[str]:
    """The Python blocks of docs/python.md that define a coroutine ``main``."""
    return re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.splitlines()[0][:40])
@pytest_twisted.ensureDeferred
async def test_the_examples_of_the_documentation_run(
    example: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each against a server of the test's own, and for a shorter time."""
    source = textwrap.dedent(example).replace("127.0.0.1:8088", target).replace("duration=10", "duration=0.2")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "docs/python.md", "exec"), names)
    await Deferred.fromCoroutine(names["main"]())
    assert capsys.readouterr().out


def test_the_captures_in_the_documentation_are_those_that_were_taken() -> None:
    shown = (DOCS / "load.md").read_text(encoding="utf-8")
    for capture in sorted((DOCS / "captures").glob("load-*.txt")):
        assert capture.read_text(encoding="utf-8").strip() in shown, capture.name
