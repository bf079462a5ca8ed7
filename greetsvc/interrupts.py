"""Ctrl-C while a command is still starting: it ends at once and without a traceback, as a program in C does.

Python turns SIGINT into a KeyboardInterrupt, which in the midst of imports is 60 lines of traceback. With the action
of the system, the shell sees that the signal ended the command (status 130).
"""

from __future__ import annotations

# The C module behind `signal`, which itself loads `enum`: as much time again in which Ctrl-C is a traceback.
import _signal as signal  # type: ignore[import-not-found]

__all__ = ["end_at_once", "raise_interrupts"]


def end_at_once() -> None:
    """Let SIGINT end the process; where it is ignored, as in a shell's background jobs, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_interrupts() -> None:
    """Undo `end_at_once`: Twisted handles SIGINT only where Python's own handler is in place."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
