"""What a greeter is, and how one is found: the entry points ``greetsvc.greeters`` name them."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import Protocol, cast

import attrs

from greetsvc.plugins import Door
from greetsvc.visit import Visit

__all__ = ["GROUP", "Greeter", "GreeterFactory", "find_greeter", "known_greeters", "text_encoding"]

GROUP = "greetsvc.greeters"
"""The entry point group. Each entry point names a `GreeterFactory`."""

_DOOR = Door(GROUP, "greeter")


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
    made = _DOOR.make(kind, argument, text_encoding(encoding))
    try:
        complete = hasattr(made, "greet") and hasattr(made, "needs")
    except Exception as error:  # needs may be a property
        raise ValueError(f"the greeter {kind!r} cannot tell its needs: {error!r}") from error
    if not complete:
        raise ValueError(f"the greeter {kind!r} is {made!r}, which has no greet() or no needs")
    _check_needs(kind, made.needs)
    return cast(Greeter, made)


def _check_needs(kind: str, needs: object) -> None:
    """Raise `ValueError` if ``needs`` is not a collection of names of fields of `Visit`, which would stay empty."""
    fields = [field.name for field in attrs.fields(Visit)]
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise ValueError(f"the greeter {kind!r} has needs {needs!r}, which must be a set of names")
    for need in needs:
        if need not in fields:
            raise ValueError(f"the greeter {kind!r} needs {need!r}; a visit has {', '.join(fields)}")


def known_greeters() -> list[tuple[str, str]]:
    """The kind of each greeter with the first line of its factory's docstring, or why it cannot be used."""
    return _DOOR.known()


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
