"""What signals do: none ends the service before it has drained, and SIGHUP, SIGUSR1 and SIGUSR2 never end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from greetsvc.interrupts import hold, release_signals

__all__ = ["handle_signals", "taking_stop_signals"]

_STOPS = (signal.SIGTERM, signal.SIGINT)


def handle_signals(
    reactor: Any, *, rotate: Callable[[], object], reload: Callable[[], object], upgrade: Callable[[], object]
) -> None:
    """Handle the signals of a program whose reactor will run.

    SIGUSR1 calls ``rotate``, SIGUSR2 ``upgrade``, and SIGHUP ``reload``, also for one that `interrupts` held since
    the program started. A handler that is set already stays.

    The reactor handles SIGTERM and SIGINT only when it runs, a moment after the log says that the service serves. One
    that comes earlier waits for that. It gets only the first: to stop it twice is an error, and some programs, as
    timeout(1), send two at once. Without effect where the reactor runs already: the program is not ours then.
    """
    if reactor.running or threading.current_thread() is not threading.main_thread():
        return
    _queue_signals(reactor, {signal.SIGUSR1: rotate, signal.SIGUSR2: upgrade, signal.SIGHUP: reload})
    waiting: set[int] = set()

    def wait(number: int, _frame: object) -> None:
        if number not in waiting:
            waiting.add(number)
            reactor.callFromThread(signal.raise_signal, number)

    for number in _STOPS:
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, wait)

    def hand_over() -> None:
        # The reactor takes SIGTERM from any handler, but SIGINT only from Python's own.
        handlers = {signal.SIGTERM: reactor.sigTerm, signal.SIGINT: reactor.sigInt}
        stopping = False

        def stop(number: int, frame: object) -> None:
            nonlocal stopping
            if not stopping:
                stopping = True
                handlers[signal.Signals(number)](number, frame)

        for number, handler in handlers.items():
            if signal.getsignal(number) in {wait, handler}:
                signal.signal(number, stop)

    reactor.callWhenRunning(hand_over)


def _queue_signals(reactor: Any, calls: Mapping[int, Callable[[], object]]) -> None:
    """Call what belongs to a signal in a turn of the reactor. Signals that come before that turn are one.

    So a loop of SIGHUPs is not all that the service does.
    """
    waiting: set[int] = set()

    def call(number: int) -> None:
        waiting.discard(number)
        calls[number]()

    def queue(number: int, _frame: object) -> None:
        if number not in waiting:
            waiting.add(number)
            # A handler may interrupt the reactor anywhere; this queue is read once the reactor runs.
            reactor.callFromThread(call, number)

    for number in calls:
        if signal.getsignal(number) in {signal.SIG_DFL, hold}:
            signal.signal(number, queue)
    for number in release_signals():
        queue(number, None)


@contextmanager
def taking_stop_signals(call: Callable[[], object]) -> Iterator[None]:
    """A context in which SIGTERM and SIGINT call ``call``; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = {number: signal.signal(number, lambda *_: call()) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
