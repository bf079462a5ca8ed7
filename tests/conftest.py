"""What every test is held to: nothing logged as an error, nothing left running, nothing left open."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorCore, IReactorFDSet, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

pytest_plugins = ["tests.support.installed", "tests.support.peers"]


class _Reactor(IReactorTime, IReactorFDSet, IReactorCore):
    """The global reactor as the type checker may see it."""


def _sockets() -> set[str]:
    """The sockets this process holds, by inode; none known where there is no /proc."""
    found = set()
    for fd in Path("/proc/self/fd").glob("*"):
        try:
            link = str(fd.readlink())
        except OSError:
            continue
        if link.startswith("socket:"):
            found.add(link)
    return found


def _turn() -> None:
    """Let the reactor turn, so that descriptors closed in this turn are forgotten."""
    pytest_twisted.blockon(deferLater(reactor, 0, lambda: None))


@implementer(ILogObserver)
class LoggedErrors(list[LogEvent]):
    """Log events that report an error; a test that expects one takes it away with `flush`."""

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            self.append(event)

    def flush(self, exception: type[BaseException]) -> list[BaseException]:
        """Take away the errors of this type, and return them."""
        taken = [event for event in self if _exception(event, exception)]
        self[:] = [event for event in self if event not in taken]
        return [event["log_failure"].value for event in taken]


def _exception(event: LogEvent, exception: type[BaseException]) -> bool:
    failure = event.get("log_failure")
    return failure is not None and isinstance(failure.value, exception)


@pytest.fixture(autouse=True, scope="session")
def interrupts_reach_programs() -> None:
    """Let programs that tests start take SIGINT, which a shell has its background jobs, and so them, ignore."""
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
    """Notes what the log says, a text for each event."""

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
    """Fail the test that logged an error, dropped a failure, or left a timer, a descriptor or a socket."""
    from twisted.internet import reactor as global_reactor

    core: _Reactor = global_reactor  # type: ignore[assignment]
    _turn()
    calls = set(core.getDelayedCalls())
    descriptors = {*core.getReaders(), *core.getWriters()}
    sockets = _sockets()
    # What was there before the test needs no look afterwards, which would take a tenth of a second each time.
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
