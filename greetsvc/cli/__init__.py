"""The command `greet`: options in, plan out; the exit status is 0 to 3 (docs/client.md).

Importing this imports next to nothing: `main` makes Ctrl-C harmless before the rest is loaded, which takes 0.3 s.
"""

from __future__ import annotations

import sys

from greetsvc.interrupts import end_at_once

__all__ = ["main"]

_SHORTAGES = (ImportError, MemoryError, OSError, SystemError)
_NO_MEMORY = "out of memory"


def main() -> int:
    """Run the command; the exit status."""
    end_at_once()
    try:
        if "--healthcheck" in sys.argv:
            from greetsvc.cli.healthcheck import plain_form, run

            if (plain := plain_form(sys.argv[1:])) is not None:
                return run(*plain)
        from greetsvc.cli.command import main as run_command

        return run_command()
    except Exception as error:
        # There is no descriptor or no memory left for a module, or for the reactor. OpenSSL has its own words for it.
        reason = _reason(error)
        if not isinstance(error, _SHORTAGES) and reason != _NO_MEMORY:
            raise
        _complain(f"this host: {reason}")
        return 2


def _complain(words: str) -> None:
    """Say it where the reader of this form looks. No module is left for that: neither `json` nor a report."""
    if "--nagios" in sys.argv:
        print(f"GREET CRITICAL - {words} | time=U loss=U")
    elif "--json" in sys.argv:
        said = words.replace("\\", "\\\\").replace('"', '\\"')
        print(f'{{"ok": false, "greeting": null, "error": "{said}", "errno": null, "phase": null}}')
    else:
        sys.stderr.write(f"greet: {words}\n")


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError | SystemError):  # the latter is that of C code which did not expect the former
        return _NO_MEMORY
    try:
        words = getattr(error, "strerror", None) or str(error)
    except MemoryError:  # not even for the words of another error
        return _NO_MEMORY
    return _NO_MEMORY if not words or "malloc failure" in words else words
