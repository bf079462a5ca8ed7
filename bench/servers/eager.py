"""Servers on the listener of greetsvc.net: a stock Protocol that stays connected, or a subclass of GreetingProtocol.

`python -m bench.servers.eager hold|own`.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, ServerFactory

from bench.servers import GREETING, HOST, ready
from bench.servers.stock import GreetAndStay
from greetsvc.greeters.text import TextGreeter
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.stream.facade import ListeningReactor
from greetsvc.server import GreetingFactory, GreetingProtocol
from greetsvc.server.admission import Admission


class Own(GreetingProtocol):
    """A subclass, as a user writes one."""


def hold() -> tuple[Factory, Lingerers | None]:
    """Write and keep the connection."""
    factory = ServerFactory()
    factory.protocol = GreetAndStay
    factory.noisy = False
    return factory, None


def own() -> tuple[Factory, Lingerers | None]:
    """Greet and close, with lingering and limits."""
    clock: Any = reactor
    admission = Admission(max_connections=20_000, max_per_source=64)
    factory = GreetingFactory(TextGreeter(GREETING.decode("ascii")), admission=admission, reactor=clock)
    factory.protocol = Own
    return factory, Lingerers(clock, lifetime=10.0, max_sockets=20_000)


def main(kind: str) -> None:
    """Listen, and print the port."""
    factory, lingerers = {"hold": hold, "own": own}[kind]()
    listening = ListeningReactor(reactor, lingerers=lingerers)
    listening.begin()
    port = listening.listenTCP(0, factory, interface=HOST)
    ready(port.getHost().port)  # type: ignore[attr-defined]
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
