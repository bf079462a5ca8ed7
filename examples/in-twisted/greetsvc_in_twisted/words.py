"""A `GreetingProtocol` of your own in a plain Twisted program, without twistd.

    own-words [ENDPOINT]        # tcp:8088 when left out

The subclass makes its own greeting. It inherits that the greeting arrives whole, even if the visitor is still
sending, and that the connection ends at its deadline.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

from greetsvc.greeters import TextGreeter
from greetsvc.server import GreetingFactory, GreetingProtocol


class OwnWords(GreetingProtocol):
    """Tells visitors how many connections are open."""

    def greeting(self) -> bytes:
        """The bytes to send to this peer."""
        return f"Hello {self.peer.host}, {self.factory.admission.open} of you are here\r\n".encode()


async def serve(reactor: Any, endpoint: str = "tcp:8088") -> None:
    """Greet until stopped."""
    factory = GreetingFactory(TextGreeter(), deadline=30, reactor=reactor)
    factory.protocol = OwnWords
    port = await serverFromString(reactor, endpoint).listen(factory)
    print(f"Server start at port: {port.getHost().port}", flush=True)
    await Deferred()


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    react(lambda *arguments: Deferred.fromCoroutine(serve(*arguments)), sys.argv[1:])
