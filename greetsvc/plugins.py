"""The two doors for other packages: entry points are found, loaded and described here, for greeters and protocols."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from twisted.logger import Logger
from twisted.python.failure import Failure

from greetsvc.printable import one_line

__all__ = ["Door", "tell_failure"]

_log = Logger(namespace="greetsvc")


class Door(NamedTuple):
    """The entry points of one ``group``. ``kind`` is what they give, in words: ``greeter`` or ``protocol``.

    An entry point names a callable, or a class whose ``from_argument`` is called. Every error is a `ValueError` with
    one line that names the plugin; the traceback goes to the log at debug level.
    """

    group: str
    kind: str

    def make(self, name: str, *arguments: str) -> Any:
        """What the plugin ``name`` makes of these arguments. Raises `ValueError` or `OSError`."""
        points = entry_points(group=self.group)
        found = [point for point in points if point.name == name]
        if not found:
            raise ValueError(self._unknown(name, points.names))
        named = self._load(self._only(found))
        try:
            made = getattr(named, "from_argument", named)(*arguments)
        except (OSError, ValueError):
            raise
        except (Exception, SystemExit) as error:  # a third party's factory may raise anything
            tell_failure(self.kind, name)
            raise ValueError(f"the {self.kind} {name!r} cannot be made: {error!r}") from error
        if isinstance(made, Coroutine):
            made.close()  # else Python warns that it was never awaited
            raise ValueError(f"the {self.kind} {name!r} cannot be made: {named!r} is a coroutine function")
        return made

    def known(self) -> list[tuple[str, str]]:
        """The name of each plugin with the first line of its docstring, or why it cannot be used."""
        points = entry_points(group=self.group)
        return sorted((name, self._described([one for one in points if one.name == name])) for name in points.names)

    def _unknown(self, name: str, names: Collection[str]) -> str:
        nearest = get_close_matches(name.casefold(), names, 1)
        meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"there is no {self.kind} {name!r}{meant or ';'} known are {', '.join(sorted(names))}"

    def _load(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (Exception, SystemExit) as error:  # a third party's module may raise anything
            tell_failure(self.kind, point.name)
            why = error if isinstance(error, Exception) else repr(error)
            raise ValueError(f"the {self.kind} {point.name!r} ({point.value}) does not load: {why}") from error

    def _described(self, points: Collection[EntryPoint]) -> str:
        try:
            return (self._load(self._only(points)).__doc__ or "").strip().partition("\n")[0]
        except ValueError as error:
            return one_line(str(error))

    def _only(self, points: Collection[EntryPoint]) -> EntryPoint:
        """The only one. Raises `ValueError` where distributions disagree: the order of sys.path would choose."""
        first, *others = points
        if others:
            found = ", ".join(f"{one.dist.name if one.dist else 'unknown'} ({one.value})" for one in points)
            raise ValueError(
                f"the {self.kind} {first.name!r} is in several distributions, of which one may stay: {found}"
            )
        return first


def tell_failure(kind: str, name: str) -> None:
    """Log the traceback of the exception that is handled, at debug level: it is for the author of the plugin."""
    # As text: for the service it is no failure.
    _log.debug("The {kind} {name!r}: {trace}", kind=kind, name=name, trace=Failure().getTraceback())
