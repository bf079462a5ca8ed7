"""Twisted's own tests of TCP, UNIX and TLS transports, run over our listener.

The tests build a reactor each and listen with it. Here that reactor is one of Twisted's with the listening methods of
`greetsvc.net.stream.facade.ListeningReactor`. A module runs in child processes (this file as a program): a test that
hangs ends its child and has failed, and the next child goes on behind it.

``python tests/lab/twisted_suite.py`` prints the results of every combination.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from attrs import define, field, frozen

MODULES = ("test_tcp", "test_unix", "test_tls")
REACTORS = {
    "epoll": "twisted.internet.epollreactor.EPollReactor",
    "poll": "twisted.internet.pollreactor.PollReactor",
    "select": "twisted.internet.selectreactor.SelectReactor",
}
LISTENERS = ("stock", "ours", "lingering")
"""Twisted's listener; ours with Twisted's close; ours with the lingering close."""

PATIENCE = 5.0
"""Seconds for which a test may run its reactor, and half of those for which a child may be silent."""

MOST = 100.0
"""Seconds for all tests of a module."""


@define
class Results:
    """How the tests of a module went, by name: class and method."""

    passed: set[str] = field(factory=set)
    failed: dict[str, str] = field(factory=dict)
    skipped: dict[str, str] = field(factory=dict)

    @property
    def ended(self) -> set[str]:
        """The tests that have a result."""
        return {*self.passed, *self.failed, *self.skipped}

    def __str__(self) -> str:
        passed, failed, skipped = len(self.passed), len(self.failed), len(self.skipped)
        return f"{passed + failed + skipped} run, {passed} passed, {failed} failed, {skipped} skipped"


def run(module: str, reactor: str, listener: str, alone: Collection[str] = ()) -> Results:
    """The results of one of `MODULES` with one of `REACTORS` and one of `LISTENERS`.

    Each of the tests ``alone`` has a child of its own, the last ones: what it leaves behind when it fails harms no
    other.
    """
    results = Results()
    end = time.monotonic() + MOST
    for only in ((), *((name,) for name in alone)):
        with TemporaryDirectory() as folder:
            while not _child([module, reactor, listener], only, alone, results, Path(folder), end):
                pass
    return results


def _child(
    kind: list[str], only: Collection[str], alone: Collection[str], results: Results, folder: Path, end: float
) -> bool:
    """Run a child for the tests that are left, or for those in ``only``; whether it has run them all."""
    select = json.dumps({"only": [*only], "skip": [*results.ended, *(() if only else alone)]})
    with (folder / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, *kind, select], cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            process.kill()

        running = ""
        with process:
            assert process.stdout is not None
            for line in _lines(process.stdout, kill, end):
                event = json.loads(line)
                if event["result"] == "end":
                    return True
                running = event["test"]
                if event["result"] == "passed":
                    results.passed.add(running)
                elif event["result"] != "begun":
                    getattr(results, event["result"])[running] = event["why"]
        errors.seek(0)
        said = errors.read()
    if running in {"", *results.ended}:
        raise AssertionError(f"{kind}: the child ended between two tests:\n{said}")
    results.failed[running] = "hangs" if killed.is_set() else f"ends its process:\n{said}"
    if time.monotonic() > end:
        results.failed["the module"] = f"takes more than {MOST:.0f} s"
        return True
    return False


def _lines(stream: IO[str], late: Callable[[], None], end: float) -> Iterator[str]:
    """The lines of ``stream``; ``late()`` is called when the next one is not there in time."""
    while True:
        timer = threading.Timer(min(2 * PATIENCE, max(0.0, end - time.monotonic())), late)
        timer.start()
        try:
            line = stream.readline()
        finally:
            timer.cancel()
        if not line:
            return
        yield line


# In the child


def _reactor(name: str, listener: str) -> Any:
    """The class of a reactor that listens as it is told."""
    from twisted.python.reflect import namedAny

    from greetsvc.net.linger.sweep import Lingerers
    from greetsvc.net.stream.facade import ListeningReactor

    stock = namedAny(REACTORS[name])
    if listener == "stock":
        return stock

    class Ours(stock):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            # Some clients stop reading and wait for the close: it comes within the time for a test.
            self.lingerers = Lingerers(self, lifetime=1, max_sockets=1000) if listener == "lingering" else None
            ours = ListeningReactor(self, lingerers=self.lingerers)
            ours.begin()
            self.listenTCP, self.listenSSL = ours.listenTCP, ours.listenSSL
            self.listenUNIX, self.adoptStreamPort = ours.listenUNIX, ours.adoptStreamPort

        def getDelayedCalls(self) -> list[Any]:
            # Trial fails a test that leaves a call; that a closed connection lingers for a while is no such thing.
            calls = super().getDelayedCalls()
            return [call for call in calls if getattr(call.func, "__self__", None) is not self.lingerers]

        def disconnectAll(self) -> None:
            if self.lingerers is not None:
                self.lingerers.stop()
            super().disconnectAll()

    return Ours


@frozen
class _Name:
    """Names a test, whatever reactor it is made for."""

    test: Any

    def __str__(self) -> str:
        kind, method = self.test.id().split(".")[-2:]
        return f"{kind.removesuffix('_UnderTestTests')}.{method}"


def _tests(suite: Any) -> Iterator[Any]:
    for test in suite:
        if hasattr(test, "__iter__"):
            yield from _tests(test)
        else:
            yield test


def _result(say: Callable[..., None]) -> Any:
    """What the tests report to, which says it at once."""
    from twisted.trial.reporter import TestResult

    class Result(TestResult):
        told = False

        def startTest(self, test: Any) -> None:
            self.told = False
            say(test, "begun")

        def _tell(self, test: Any, result: str, why: object = "") -> None:
            self.told = True
            say(test, result, why)

        def addSuccess(self, test: Any) -> None:
            if not self.told:
                self._tell(test, "passed")

        def addError(self, test: Any, error: Any) -> None:
            self._tell(test, "failed", error if isinstance(error, tuple) else error.getTraceback())

        addFailure = addError

        def addSkip(self, test: Any, reason: Any) -> None:
            self._tell(test, "skipped", reason)

        def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
            self._tell(test, "skipped", "is expected to fail")

        def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
            self._tell(test, "passed")

    make: Any = Result
    return make()


def _main(module: str, reactor: str, listener: str, select: str) -> None:
    """Run the tests of ``module`` that are selected; a line of JSON for each result."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # for what a test prints

    def say(test: Any, result: str, why: object = "") -> None:
        output.write(json.dumps({"test": test and str(_Name(test)), "result": result, "why": str(why)}) + "\n")

    from twisted.internet.main import installReactor

    kind = _reactor(reactor, listener)
    installReactor(kind())
    from twisted.internet.test.reactormixins import ReactorBuilder
    from twisted.trial.runner import TestLoader
    from twisted.trial.unittest import SynchronousTestCase

    globals()["UnderTest"] = kind
    builder: Any = ReactorBuilder
    builder._reactors = [f"{__name__}.UnderTest"]
    case: Any = SynchronousTestCase
    case.timeout = PATIENCE
    selected = json.loads(select)
    result = _result(say)
    for test in _tests(TestLoader().loadByName(f"twisted.internet.test.{module}")):
        name = str(_Name(test))
        if name not in selected["skip"] and (name in selected["only"] or not selected["only"]):
            test.run(result)
    say(None, "end")
    os._exit(0)  # whatever the tests have left


def _print_everything() -> None:
    for listener in LISTENERS:
        for reactor in REACTORS:
            for module in MODULES:
                results = run(module, reactor, listener)
                lines = [f"{listener} {reactor} {module}: {results}"]
                lines += [f"    {name}: {why.strip().splitlines()[-1]}" for name, why in results.failed.items()]
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _main(*sys.argv[1:])
    else:
        _print_everything()
