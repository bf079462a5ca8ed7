"""Any Twisted protocol, on the listener of `greetsvc.net`: `ListeningReactor` is the reactor, with better listening.

    python own_protocol.py [ENDPOINT]     # tcp:8088 when left out; all of Twisted's endpoint strings

``loseConnection`` then means: send what was written, then FIN, then wait for the peer in bounded time. Nothing
here knows of greetings.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.stream.facade import ListeningReactor


class Shout(Protocol):
    """Says the first thing that it hears once more, louder, and closes."""

    transport: ITCPTransport

    def dataReceived(self, data: bytes) -> None:
        """Shout, and hang up, though more may be on its way."""
        self.transport.write(data.upper())
        self.transport.loseConnection()


async def main(reactor: Any, endpoint: str = "tcp:8088") -> None:
    """Shout until stopped."""
    lingerers = Lingerers(reactor, silence=2, lifetime=10, max_sockets=1000)
    listening = ListeningReactor(reactor, lingerers=lingerers)
    port = await serverFromString(listening, endpoint).listen(Factory.forProtocol(Shout))
    listening.begin()
    print(f"Server start at port: {port.getHost().port}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(lambda *arguments: Deferred.fromCoroutine(main(*arguments)), sys.argv[1:])
