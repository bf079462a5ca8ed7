"""Setup for all tests. No test may leave a timer, a descriptor, a socket or a logged error behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorCore, IReactorFDSet, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

# Each process that runs tests would compile all of them anew, and hundreds of programs that tests start the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_PLUGINS = ("certificates", "greet", "installed", "peers", "process", "service", "shared", "talkers")
pytest_plugins = [f"tests.support.{name}" for name in _PLUGINS]
pytest.register_assert_rewrite("tests.support")

# No example is judged by how long it took: that depends on what else the machine does. Half as many as Hypothesis
# would try: every change is tested on three Pythons, each with other examples.
hypothesis.settings.register_profile(
    "greetsvc", max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("greetsvc")

LAB = Path(__file__).parent / "lab"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in tests/lab, and nothing else, as `lab`."""
    for item in items:
        if LAB in item.path.parents:
            item.add_marker(pytest.mark.lab)


class _Reactor(IReactorTime, IReactorFDSet, IReactorCore):
    """The global reactor, for the type checker."""


def _sockets() -> set[str]:
    """The sockets that this process has open, by inode; empty where there is no /proc."""
    found = set()
    with suppress(FileNotFoundError):
        # Twice for each test: `pathlib` would take three times as long.
        for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with suppress(OSError):
                found.add(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
    return {link for link in found if link.startswith("socket:")}


def _turn() -> None:
    """Let the reactor turn once: it forgets descriptors that were closed in this turn."""
    pytest_twisted.blockon(deferLater(reactor, 0, lambda: None))


@implementer(ILogObserver)
class LoggedErrors(list[LogEvent]):
    """Log events that report an error; a test that expects one removes it with `flush`."""

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            self.append(event)

    def flush(self, exception: type[BaseException]) -> list[BaseException]:
        """Remove the errors of this type, and return them."""
        taken = [event for event in self if _exception(event, exception)]
        self[:] = [event for event in self if event not in taken]
        return [event["log_failure"].value for event in taken]


def _exception(event: LogEvent, exception: type[BaseException]) -> bool:
    failure = event.get("log_failure")
    return failure is not None and isinstance(failure.value, exception)


@pytest.fixture(autouse=True, scope="session")
def interrupts_reach_programs() -> None:
    """Let programs that tests start take SIGINT.

    A shell has its background jobs ignore it, and the programs that these start inherit that.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def logged_errors() -> Iterator[LoggedErrors]:
    """The errors logged while the test runs."""
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    yield errors
    globalLogPublisher.removeObserver(errors)


@implementer(ILogObserver)
class _Lines:
    """Collects the text of each log event."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What is logged while the test runs."""
    observer = _Lines()
    globalLogPublisher.addObserver(observer)
    yield observer.lines
    globalLogPublisher.removeObserver(observer)


@pytest.fixture(autouse=True)
def nothing_is_left(logged_errors: LoggedErrors) -> Iterator[None]:
    """Fail a test that logged an error, or left a failed Deferred, a timer, a descriptor or a socket behind."""
    from twisted.internet import reactor as global_reactor

    core: _Reactor = global_reactor  # type: ignore[assignment]
    _turn()
    calls = set(core.getDelayedCalls())
    descriptors = {*core.getReaders(), *core.getWriters()}
    sockets = _sockets()
    # The collection after the test need not look at older objects: that would take 0.1 s each time. Before they are
    # frozen, the last test's services go, which pytest let go of after its collection: else each keeps 17 MB.
    gc.collect()
    gc.freeze()
    yield
    gc.collect()
    _turn()
    left_calls = set(core.getDelayedCalls()) - calls
    left_descriptors = {*core.getReaders(), *core.getWriters()} - descriptors
    left_sockets = _sockets() - sockets
    for call in left_calls:
        call.cancel()
    assert not logged_errors, "\n".join(eventAsText(event) for event in logged_errors)
    assert not left_calls, f"delayed calls left: {left_calls}"
    assert not left_descriptors, f"descriptors left with the reactor: {left_descriptors}"
    assert not left_sockets, f"sockets left open: {left_sockets}"
