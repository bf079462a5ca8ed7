"""Signals while a command is still starting.

Ctrl-C ends it at once and without a traceback, as a program in C. Python turns SIGINT into a KeyboardInterrupt, which
in the midst of imports is 60 lines of traceback. With the action of the system, the shell sees that the signal ended
the command (status 130). What must never end the service is held until the service can do what it asks for.
"""

from __future__ import annotations

# The C module behind `signal`, which itself loads `enum`: as much time again in which Ctrl-C is a traceback.
import _signal as signal  # type: ignore[import-not-found]

__all__ = ["end_at_once", "hold", "hold_signals", "raise_interrupts", "release_signals"]

_held: set[int] = set()


def end_at_once() -> None:
    """Let SIGINT end the process; where it is ignored, as in a shell's background jobs, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_interrupts() -> None:
    """Undo `end_at_once`: Twisted handles SIGINT only where Python's own handler is in place."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hold_signals() -> None:
    """Note SIGHUP, SIGUSR1 and SIGUSR2, which would end the process; those that are ignored stay ignored."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, hold)


def hold(number: int, _frame: object) -> None:
    """Note a signal: the handler that `hold_signals` sets."""
    _held.add(number)


def release_signals() -> set[int]:
    """The signals that came so far. The caller has set other handlers."""
    found = {*_held}
    _held.clear()
    return found
