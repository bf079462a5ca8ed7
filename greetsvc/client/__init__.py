"""The client: probes a server for its greeting, and says what the network did to it.

What runs many probes is loaded when it is first used (PEP 562): a health check probes once and does not need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greetsvc.client.probe.probe import greet, greet_ex
from greetsvc.client.result import GreetFailed, Greeting, Seconds
from greetsvc.client.target import Target
from greetsvc.client.tls import ClientTls

if TYPE_CHECKING:
    from greetsvc.client.load.run import Run
    from greetsvc.client.probe.series import greet_many

__all__ = ["ClientTls", "GreetFailed", "Greeting", "Run", "Seconds", "Target", "greet", "greet_ex", "greet_many"]

_LAZY = {"Run": "greetsvc.client.load.run", "greet_many": "greetsvc.client.probe.series"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
