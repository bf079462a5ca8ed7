"""The client: probes a server for its greeting, and says what the network did to it.

These are its public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.client.load.metrics import FailureCount, LoadMetrics, SecondCounts
    from greetsvc.client.load.run import Run
    from greetsvc.client.path import PathChanges
    from greetsvc.client.probe.probe import greet, greet_ex
    from greetsvc.client.probe.series import greet_many
    from greetsvc.client.result import GreetFailed, Greeting, Seconds
    from greetsvc.client.stats import Histogram
    from greetsvc.client.target import Target
    from greetsvc.client.tls import ClientTls
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.client.load.metrics": ("FailureCount", "LoadMetrics", "SecondCounts"),
            "greetsvc.client.load.run": ("Run",),
            "greetsvc.client.path": ("PathChanges",),
            "greetsvc.client.probe.probe": ("greet", "greet_ex"),
            "greetsvc.client.probe.series": ("greet_many",),
            "greetsvc.client.result": ("GreetFailed", "Greeting", "Seconds"),
            "greetsvc.client.stats": ("Histogram",),
            "greetsvc.client.target": ("Target",),
            "greetsvc.client.tls": ("ClientTls",),
        },
    )

__all__ = [
    "ClientTls",
    "FailureCount",
    "GreetFailed",
    "Greeting",
    "Histogram",
    "LoadMetrics",
    "PathChanges",
    "Run",
    "SecondCounts",
    "Seconds",
    "Target",
    "greet",
    "greet_ex",
    "greet_many",
]
