"""How many files, sockets among them, this process may still open."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["open_more_files", "room"]

_RESERVE = 16
"""Files that are left to the rest of the program."""


def room() -> float:
    """How many more there may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return float("inf")
    return most - len(list(Path("/dev/fd").iterdir())) - _RESERVE


def open_more_files() -> None:
    """Raise this process's limit of open files as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS refuses what its kernel does not have
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
