"""The client: probes a server for its greeting, and says what the network did to it.

These are its public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.client.load.metrics import Connections, FailureCount, LoadMetrics, SecondCounts
    from greetsvc.client.load.run import Run
    from greetsvc.client.options import Talk
    from greetsvc.client.path import PathChanges
    from greetsvc.client.probe.probe import greet, greet_ex
    from greetsvc.client.probe.series import greet_many
    from greetsvc.client.result import GreetFailed, Greeting, RoundTrip, Seconds, Talked
    from greetsvc.client.stats import Histogram
    from greetsvc.client.target import Target
    from greetsvc.client.tls import ClientTls
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.client.load.metrics": ("Connections", "FailureCount", "LoadMetrics", "SecondCounts"),
            "greetsvc.client.load.run": ("Run",),
            "greetsvc.client.path": ("PathChanges",),
            "greetsvc.client.probe.probe": ("greet", "greet_ex"),
            "greetsvc.client.probe.series": ("greet_many",),
            "greetsvc.client.options": ("Talk",),
            "greetsvc.client.result": ("GreetFailed", "Greeting", "RoundTrip", "Seconds", "Talked"),
            "greetsvc.client.stats": ("Histogram",),
            "greetsvc.client.target": ("Target",),
            "greetsvc.client.tls": ("ClientTls",),
        },
    )

__all__ = [
    "ClientTls",
    "Connections",
    "FailureCount",
    "GreetFailed",
    "Greeting",
    "Histogram",
    "LoadMetrics",
    "PathChanges",
    "RoundTrip",
    "Run",
    "SecondCounts",
    "Seconds",
    "Talk",
    "Talked",
    "Target",
    "greet",
    "greet_ex",
    "greet_many",
]
