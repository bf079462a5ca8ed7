"""Tests that every protocol of the service must pass, for plugins of others too. They need pytest only to be run.

Two lines in a test file run them all::

    from greetsvc.testing import Conformance
    class TestShout(Conformance): plugin = "shout:times=2"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.testing.conformance import Conformance
    from greetsvc.testing.memory import MemoryPeer, context
    from greetsvc.testing.wires import Wire
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.testing.conformance": ("Conformance",),
            "greetsvc.testing.memory": ("MemoryPeer", "context"),
            "greetsvc.testing.wires": ("Wire",),
        },
    )

__all__ = ["Conformance", "MemoryPeer", "Wire", "context"]
