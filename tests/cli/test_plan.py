"""Carrying a plan out: the reactor's part is played by the test."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from greetsvc.cli.plan import ProbePlan, drive
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.text import TextReport
from greetsvc.client.result import GreetFailed, Greeting, Seconds
from greetsvc.client.stats import Expectations
from greetsvc.client.target import parse
from greetsvc.console import CannotWrite, Lines, Output, ReaderGone
from greetsvc.visit import Address

TARGET = parse("127.0.0.1:1")
GREETING = Greeting(TARGET, b"hi", "hi\r\n", Seconds(total=0.001), Address("127.0.0.1", 1), "fin")


class Reactor(Clock):
    """Runs what is due until it is stopped; ``signal_after`` seconds later somebody presses Ctrl-C."""

    def __init__(self, signal_after: float | None = None) -> None:
        super().__init__()
        self._signal_after = signal_after
        self._started: list[Callable[[], object]] = []
        self._stopping: list[Callable[[], object]] = []
        self._stopped = False

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        assert (phase, event) == ("before", "shutdown")
        self._stopping.append(call)

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self._started.append(call)

    def run(self) -> None:
        if self._signal_after is not None:
            self.callLater(self._signal_after, self.stop)
        for call in self._started:
            call()
        for _ in range(1000):
            if self._stopped:
                return
            self.advance(0.01)
        pytest.fail("the reactor was not stopped")

    def stop(self) -> None:
        assert not self._stopped
        self._stopped = True
        for call in self._stopping:
            call()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the probes come to, in turn; the last one from then on."""
    queue: list[Any] = []

    async def run(probe: Probe, *, trace: Any, reactor: object) -> Greeting:
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if trace:
            trace("* step\x1b")
        if isinstance(answer, Exception):
            raise answer
        greeting: Greeting = answer
        return greeting

    monkeypatch.setattr(Probe, "run", run)
    return queue


def carry_out(reactor: Reactor | None = None, **options: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    several = options.get("count", 1) != 1
    plan = ProbePlan(Probe(TARGET), Expectations(), TextReport(TARGET, several), **options)
    reactor = reactor or Reactor()
    status = drive(plan, Output(out, err), reactor, reactor.seconds)
    return status, out.getvalue(), err.getvalue()


def test_one_greeting_is_printed_and_ends_the_run(answers: list[Any]) -> None:
    answers.append(GREETING)
    assert carry_out() == (0, "hi\n", "")


def test_a_verbose_plan_traces_each_step_with_escapes(answers: list[Any]) -> None:
    answers.append(GREETING)
    assert carry_out(verbose=True) == (0, "hi\n", "* step\\x1b\n")


def test_not_greeted_is_2_and_some_lost_is_1(answers: list[Any]) -> None:
    answers.append(GreetFailed(111, "Connection refused", "connect"))
    status, out, err = carry_out()
    assert (status, out, err.splitlines()[0]) == (2, "", "greet: tcp:127.0.0.1:1: connect: Connection refused")
    answers.append(GREETING)
    status, out, err = carry_out(count=3, interval=0.1)
    assert status == 1
    assert "3 sent, 2 greeted, 1 lost" in out
    assert err.splitlines()[0] == "greet: 1: tcp:127.0.0.1:1: connect: Connection refused"


def test_a_signal_ends_the_run_with_the_summary_so_far(answers: list[Any]) -> None:
    answers.append(GREETING)
    status, out, _ = carry_out(Reactor(signal_after=0.55), count=0, interval=0.1)
    assert status == 0
    assert "6 sent, 6 greeted, 0 lost" in out


class Broken(Output):
    def __init__(self, error: Exception) -> None:
        self.err = io.StringIO()
        super().__init__(None, self.err)
        self._error = error

    def write(self, lines: Lines) -> None:
        raise self._error


def test_a_reader_that_left_ends_the_run_quietly_and_a_full_disk_does_not(answers: list[Any]) -> None:
    plan = ProbePlan(Probe(TARGET), Expectations(), TextReport(TARGET, several=False))
    answers.append(GREETING)
    output = Broken(ReaderGone())
    assert drive(plan, output, Reactor()) == 0
    assert output.err.getvalue() == ""
    answers.append(GREETING)
    with pytest.raises(CannotWrite, match="No space"):
        drive(plan, Broken(CannotWrite("No space")), Reactor())


def test_an_unexpected_exception_is_not_hidden(answers: list[Any]) -> None:
    answers.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        carry_out()
