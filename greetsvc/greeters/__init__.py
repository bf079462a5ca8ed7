"""What is said: greeters turn a visit into bytes. They are found through the entry points ``greetsvc.greeters``."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from greetsvc.visit import Visit

__all__ = ["GROUP", "Greeter", "GreeterFactory", "find_greeter", "known_greeters", "text_encoding"]

GROUP = "greetsvc.greeters"
"""The entry point group; each names a `GreeterFactory`."""


class Greeter(Protocol):
    """Says what a visitor reads."""

    @property
    def needs(self) -> Collection[str]:
        """The fields of `Visit` that `greet` reads; with none, the greeting is rendered once and kept.

        A greeting that changes with time needs ``when``.
        """
        ...

    def greet(self, visit: Visit) -> bytes:
        """The greeting for this visit. Fields that are not in ``needs`` may hold defaults."""
        ...


GreeterFactory = Callable[[str, str], Greeter]
"""Makes a greeter from the argument behind its name (may be empty) and the encoding's name.

Raises `ValueError` or `OSError` with one line that says what is wrong; the first line of its docstring is what
``--list`` shows.
"""


def find_greeter(kind: str, argument: str, encoding: str) -> Greeter:
    """The greeter ``kind``, made from its argument. Raises `ValueError` or `OSError` with one line."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in found:
        raise ValueError(f"there is no greeter {kind!r}; known are {', '.join(sorted(found))}")
    factory = _load(found[kind])
    try:
        made = factory(argument, text_encoding(encoding))
    except (OSError, ValueError):
        raise
    except Exception as error:  # a third party's factory may raise anything
        raise ValueError(f"the greeter {kind!r} cannot be made: {error!r}") from error
    if not (hasattr(made, "greet") and hasattr(made, "needs")):
        raise ValueError(f"the greeter {kind!r} is {made!r}, which has no greet() or no needs")
    return made


def known_greeters() -> list[tuple[str, str]]:
    """Each greeter's name, and the first line of what its factory says of itself."""
    return sorted((point.name, _description(point)) for point in entry_points(group=GROUP))


def text_encoding(name: str) -> str:
    """The canonical name of a text encoding. Raises `ValueError` where there is none of that name.

    It must know a replacement for what it cannot write (``idna`` does not), as a peer may bring anything.
    """
    try:
        found = codecs.lookup(name)
        "".encode(found.name, "replace")
    except (LookupError, ValueError) as error:
        raise ValueError(f"{name!r} is not a text encoding") from error
    return found.name


def _load(point: EntryPoint) -> GreeterFactory:
    try:
        return cast(GreeterFactory, point.load())
    except Exception as error:  # a third party's module may raise anything
        raise ValueError(f"the greeter {point.name!r} ({point.value}) does not load: {error}") from error


def _description(point: EntryPoint) -> str:
    try:
        return (_load(point).__doc__ or "").strip().partition("\n")[0]
    except ValueError as error:
        return str(error)
