"""A file whose content is read again when the file changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.logger import Logger

from greetsvc.errors import ConfigError
from greetsvc.files import read_plain

__all__ = ["WatchedFile"]

_TICK = 50_000_000
"""Nanoseconds after a change of a file in which another change may leave all its times as they are.

Most kernels take these times from a clock that moves every 1 to 10 ms; some file systems know only coarser ones, but
they are rare where a service runs.
"""

Content = TypeVar("Content")
_Identity = tuple[int, ...]


class WatchedFile(Generic[Content]):
    """Holds the result of ``parse`` for a file, and reads the file again when it was changed or replaced.

    The first reading raises `OSError` or `ValueError` with one line. Later, where the file cannot be read (it is
    gone, not readable after privileges were dropped, too long, or ``parse`` raises `ValueError`), the old content is
    kept, and the log says so once each time that such a problem begins.
    """

    _log = Logger()

    def __init__(self, path: str, parse: Callable[[bytes], Content]) -> None:
        if not path:
            raise ValueError("a path is missing")
        self.path = Path(path).absolute()
        self._parse = parse
        self._problem = ""
        self._refused: _Identity | None = None
        self._identity, self._content = self._read()

    def content(self) -> Content:
        """The content now. Costs one stat(2), except in the 50 ms after a change, when the file is read each time."""
        try:
            found = _identity(self.path.stat())
            if found != self._refused:
                if found != self._identity:
                    self._refused = _settled(found)
                    self._identity, self._content = self._read()
                self._problem = ""
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._refused = None  # such an error may go away without a change of the file
            why = error.why if isinstance(error, ConfigError) else getattr(error, "strerror", None) or str(error)
            if why != self._problem:
                self._problem = why
                self._log.warn("{path}: {why}; the last good content is kept", path=str(self.path), why=why)
        return self._content

    def _read(self) -> tuple[_Identity | None, Content]:
        data, found = read_plain(self.path)
        return _settled(_identity(found)), self._parse(data)


def _identity(found: os.stat_result) -> _Identity:
    # The time of modification can be set (touch -r, rsync -t, cp -p); the time of the change of the inode cannot.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _settled(identity: _Identity) -> _Identity | None:
    """The identity; None so soon after a change that another one could leave it the same: look again then."""
    return None if 0 <= time.time_ns() - identity[-1] < _TICK else identity
