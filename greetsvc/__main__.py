"""The command ``greetsvc``. Importing this imports next to nothing, so that signals are harmless from the start."""

from __future__ import annotations

from greetsvc.interrupts import end_at_once, hold_signals

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    end_at_once()
    hold_signals()
    from greetsvc.daemon.command import main as run

    run()


if __name__ == "__main__":
    main()
