"""Asking for a greeting, and saying what the network did to it.

What runs many probes is loaded when it is first used (PEP 562): a health check that asks once has no use for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greetsvc.client.probe.greet import greet, greet_ex
from greetsvc.client.result import GreetFailed, Greeting, Seconds
from greetsvc.client.target import Target
from greetsvc.client.tls import ClientTls

if TYPE_CHECKING:
    from greetsvc.client.load.run import Run, greet_many

__all__ = ["ClientTls", "GreetFailed", "Greeting", "Run", "Seconds", "Target", "greet", "greet_ex", "greet_many"]


def __getattr__(name: str) -> object:
    if name in ("Run", "greet_many"):
        return getattr(import_module("greetsvc.client.load.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
