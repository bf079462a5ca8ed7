"""What a greeter is, and how one is found: the entry points ``greetsvc.greeters`` name them."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from greetsvc.visit import Visit

__all__ = ["GROUP", "Greeter", "GreeterFactory", "find_greeter", "known_greeters", "text_encoding"]

GROUP = "greetsvc.greeters"
"""The entry point group. Each entry point names a `GreeterFactory`."""


class Greeter(Protocol):
    """Makes the greeting of each visit."""

    @property
    def needs(self) -> Collection[str]:
        """The names of the fields of `Visit` that `greet` reads.

        The server fills in only these; the others may hold defaults. With no needs the greeting is made once and kept
        for all visits, so a greeting that changes with time needs ``when``. ``path`` and ``tls`` cost system calls
        at each visit.
        """
        ...

    def greet(self, visit: Visit) -> bytes:
        """The greeting for this visit. Runs in the reactor's thread and must not block. Exceptions are logged."""
        ...


class GreeterFactory(Protocol):
    """Makes a greeter. ``--list`` shows the first line of its docstring."""

    def __call__(self, argument: str, encoding: str, /) -> Greeter:
        """``argument`` is the text behind the colon of ``KIND:ARGUMENT``, ``encoding`` the name of a text encoding.

        Raises `ValueError` or `OSError` with one line that says what is wrong.
        """
        ...


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
    """The kind of each greeter with the first line of its factory's docstring, or why it does not load."""
    return sorted((point.name, _description(point)) for point in entry_points(group=GROUP))


def text_encoding(name: str) -> str:
    """Python's own name of a text encoding. Raises `ValueError` where there is none of this name.

    It must be able to replace characters that it cannot write (``idna`` is not), as peers may send any text.
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
