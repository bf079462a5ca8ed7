"""A file whose content is read again when the file changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.logger import Logger

from greetsvc.files import read_plain

__all__ = ["WatchedFile"]

Content = TypeVar("Content")
_Identity = tuple[int, int, int, int]


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
        """The content now. Costs one stat(2) while the file does not change."""
        try:
            found = _identity(self.path.stat())
            if found not in {self._identity, self._refused}:
                self._refused = found
                self._identity, self._content = self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._refused = None  # such an error may go away without a change of the file
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.warn("{path}: {error}; the last good content is kept", path=str(self.path), error=error)
        else:
            if found == self._identity:
                self._problem = ""
        return self._content

    def _read(self) -> tuple[_Identity, Content]:
        data, found = read_plain(self.path)
        return _identity(found), self._parse(data)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
