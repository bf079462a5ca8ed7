"""Any Twisted protocol on the listener of `greetsvc.net`: `ListeningReactor` is your reactor with another listener.

    own-stream [ENDPOINT]     # tcp:8088 when left out; any of Twisted's endpoint strings

On it ``loseConnection`` sends what was written, then FIN, and then waits in bounded time for the peer to close.
Nothing here knows of greetings.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from greetsvc.net import Lingerers, ListeningReactor


class Shout(Protocol):
    """Answers the first thing that it reads in capital letters, and closes."""

    transport: ITCPTransport

    def dataReceived(self, data: bytes) -> None:
        """Answer and close, though the peer may still be sending."""
        self.transport.write(data.upper())
        self.transport.loseConnection()


async def serve(reactor: Any, endpoint: str = "tcp:8088") -> None:
    """Serve until stopped."""
    lingerers = Lingerers(reactor, silence=2, lifetime=10, max_sockets=1000)
    listening = ListeningReactor(reactor, lingerers=lingerers)
    port = await serverFromString(listening, endpoint).listen(Factory.forProtocol(Shout))
    listening.begin()
    print(f"Server start at port: {port.getHost().port}", flush=True)
    await Deferred()


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    react(lambda *arguments: Deferred.fromCoroutine(serve(*arguments)), sys.argv[1:])
