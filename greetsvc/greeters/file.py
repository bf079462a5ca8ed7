"""The greeter ``file``: the bytes of a file, as they are."""

from __future__ import annotations

from greetsvc.greeters.watched_file import WatchedFile
from greetsvc.visit import Visit

__all__ = ["FileGreeter"]


class FileGreeter:
    """Gives the bytes of a file, read again when it changes. Raises what `WatchedFile` raises."""

    needs = frozenset({"when"})  # the file may change, so no greeting may be kept

    def __init__(self, path: str) -> None:
        self._file = WatchedFile(path, bytes)

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> FileGreeter:  # noqa: ARG003 - bytes need no encoding
        """The bytes of the file PATH, read again when it changes."""
        return cls(argument)

    def greet(self, visit: Visit) -> bytes:
        """The file as it is now."""
        return self._file.content()
