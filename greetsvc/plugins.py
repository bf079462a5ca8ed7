"""The two doors for other packages: entry points are found, loaded and described here, for greeters and protocols."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.logger import Logger
from twisted.python.failure import Failure

from greetsvc.errors import nearest
from greetsvc.printable import one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

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
        points = self._points()
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
        points = self._points()
        return sorted((name, self._described([one for one in points if one.name == name])) for name in points.names)

    def _points(self) -> EntryPoints:
        from importlib.metadata import entry_points  # its 4 ms are for those who use a plugin

        return entry_points(group=self.group)

    def _unknown(self, name: str, names: Collection[str]) -> str:
        near = nearest(name.casefold(), names)
        meant = f"; did you mean {near!r}?" if near else ""
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
