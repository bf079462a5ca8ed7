"""The command `greet`: options in, plan out; the exit status is 0 to 3 (docs/client.md).

Importing this imports next to nothing: `main` makes Ctrl-C harmless before the rest is loaded, which takes 0.3 s.
"""

from __future__ import annotations

import sys

from greetsvc.interrupts import end_at_once

__all__ = ["main"]

_SHORTAGES = (ImportError, MemoryError, OSError, SystemError)


def main() -> int:
    """Run the command; the exit status."""
    end_at_once()
    try:
        from greetsvc.cli.command import main as run

        return run()
    except Exception as error:
        # There is no descriptor or no memory left for a module, or for the reactor. OpenSSL has its own words for it.
        no_memory = "malloc failure" in str(error)
        if not isinstance(error, _SHORTAGES) and not no_memory:
            raise
        reason = "" if no_memory else getattr(error, "strerror", None) or str(error)
        sys.stderr.write(f"greet: this host: {reason or 'out of memory'}\n")
        return 2
