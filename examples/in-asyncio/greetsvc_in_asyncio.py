"""greetsvc inside an asyncio program: it greets, and probes itself, while asyncio's own tasks go on.

    greet-in-asyncio [ENDPOINT]     # tcp:8088 when left out

Twisted's reactor runs on the event loop of asyncio: install it there before anything imports
`twisted.internet.reactor`. From then on a Deferred becomes a future with ``asFuture``, and a coroutine of greetsvc a
Deferred with ``Deferred.fromCoroutine``.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from greetsvc import GreetFailed, greet
from greetsvc.greeters import TextGreeter
from greetsvc.server import GreetingFactory

__all__ = ["main", "serve"]


async def serve(endpoint: str) -> None:
    """Greet until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    asyncioreactor.install(loop)
    from twisted.internet import reactor as installed
    from twisted.internet.endpoints import serverFromString

    reactor: Any = installed
    reactor.startRunning(installSignalHandlers=False)

    factory = GreetingFactory(TextGreeter("Hello from asyncio, {peer_host}"), reactor=reactor)
    port = await serverFromString(reactor, endpoint).listen(factory).asFuture(loop)
    number = port.getHost().port
    print(f"Server start at port: {number}", flush=True)

    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    probing = asyncio.create_task(probe(f"127.0.0.1:{number}"))
    await stop.wait()
    probing.cancel()
    await port.stopListening().asFuture(loop)
    factory.abort()


async def probe(target: str) -> None:
    """A task of asyncio that awaits Twisted."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            greeting = await Deferred.fromCoroutine(greet(target)).asFuture(loop)
            print(f"{greeting.text} ({greeting.seconds.total * 1000:.1f} ms)", flush=True)
        except GreetFailed as failed:
            print(failed, flush=True)
        await asyncio.sleep(1)


def main() -> None:
    """Run."""
    asyncio.run(serve(*sys.argv[1:2] or ["tcp:8088"]))
