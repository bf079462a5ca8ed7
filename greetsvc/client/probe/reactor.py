"""The reactor that the client's coroutines run on."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["installed_reactor"]

_HOW = (
    "greetsvc runs on Twisted's reactor, and this is a coroutine of asyncio: install "
    "twisted.internet.asyncioreactor on this event loop, and await Deferred.fromCoroutine(...).asFuture(loop) "
    "(docs/python.md, asyncio)"
)


def installed_reactor() -> Any:
    """The installed reactor; where there is none yet, the default one is installed.

    :raises RuntimeError: in an asyncio event loop that is not the reactor's. Nothing would run the reactor there.
    """
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    installed = sys.modules.get("twisted.internet.reactor")
    if loop is not None and getattr(installed, "_asyncioEventloop", None) is not loop:
        raise RuntimeError(_HOW)
    from twisted.internet import reactor

    return reactor
