"""A greeting service, and the client that says what the network did to the greeting.

The public names are loaded when they are first used (PEP 562), so that the server never imports the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greetsvc._version import __version__

if TYPE_CHECKING:
    from greetsvc.client import GreetFailed, Greeting, Run, greet, greet_ex, greet_many

__all__ = ["GreetFailed", "Greeting", "Run", "__version__", "greet", "greet_ex", "greet_many"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("greetsvc.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
