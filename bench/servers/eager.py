"""A stock Protocol that stays, on the listener of greetsvc.net. `python -m bench.servers.eager hold`."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.protocol import ServerFactory

from bench.servers import HOST, ready
from bench.servers.stock import GreetAndStay
from greetsvc.net.facade import ListeningReactor


def main() -> None:
    """Listen and say where."""
    listening = ListeningReactor(reactor)
    factory = ServerFactory()
    factory.protocol = GreetAndStay
    factory.noisy = False
    port = listening.listenTCP(0, factory, interface=HOST)
    listening.begin()
    ready(port.getHost().port)  # type: ignore[attr-defined]
    reactor.run()


if __name__ == "__main__":
    main()
