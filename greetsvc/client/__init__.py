"""Asking for a greeting, and saying what the network did to it.

What runs many probes is loaded when it is first used (PEP 562): a health check that asks once has no use for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greetsvc.client.ask import greet, greet_ex
from greetsvc.client.targets import Target
from greetsvc.client.tls import ClientTls
from greetsvc.client.verdict import GreetFailed, Greeting, Seconds

if TYPE_CHECKING:
    from greetsvc.client.runs import Run, greet_many

__all__ = ["ClientTls", "GreetFailed", "Greeting", "Run", "Seconds", "Target", "greet", "greet_ex", "greet_many"]


def __getattr__(name: str) -> object:
    if name in ("Run", "greet_many"):
        return getattr(import_module("greetsvc.client.runs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
