"""The command `greet`: options in, plan out; the exit status is 0 to 3 (docs/client.md)."""

from greetsvc.cli.command import main

__all__ = ["main"]
