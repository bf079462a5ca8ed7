"""The command ``greetsvc``. Importing this imports next to nothing, so that Ctrl-C is harmless from the start."""

from __future__ import annotations

from greetsvc.interrupts import end_at_once

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    end_at_once()
    from greetsvc.daemon.command import main as run

    run()


if __name__ == "__main__":
    main()
