"""Files that others may change or replace: read whole, in bounded time and memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from greetsvc.errors import ConfigError

__all__ = ["LONGEST", "read_plain"]

LONGEST = 1024 * 1024
"""The longest file that is read, in bytes, where no other bound is given."""


def read_plain(path: str | Path, longest: int = LONGEST) -> tuple[bytes, os.stat_result]:
    """The content of a plain file of at most ``longest`` bytes, and its status.

    Raises `OSError`, and `ConfigError` with the path for another kind of file and for a longer one.
    """
    if "\0" in str(path):  # Pythons differ in what they say
        raise ValueError("the path holds a NUL character")
    # O_NONBLOCK: opening a FIFO must not block. Only a plain file is sure to have an end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("is not a plain file", value=path)
        data = bytearray()
        while len(data) <= longest and (piece := os.read(descriptor, longest + 1 - len(data))):
            data += piece
    finally:
        os.close(descriptor)
    if len(data) > longest:
        raise ConfigError(f"is longer than {longest} bytes", value=path)
    return bytes(data), found
