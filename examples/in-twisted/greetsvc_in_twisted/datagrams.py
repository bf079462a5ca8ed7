"""A datagram protocol of your own on the UDP port of `greetsvc.net`, in a plain Twisted program.

    own-datagrams [PORT]        # 8088 when left out, on every IPv4 address

`DatagramPort` takes any Twisted `DatagramProtocol`. What it adds to Twisted's own port: a flood does not block the
reactor, an answer leaves from the address the request was sent to, and the protocol can see that address. Nothing
here knows of greetings.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import react

from greetsvc.net import DatagramPort, datagram_socket

MARK = b"shout "


class Shout(DatagramProtocol):
    """Sends what follows the mark back, louder.

    Sources of datagrams can be forged. An answer that is shorter than its request amplifies nothing, and one without
    the mark cannot make two such services answer each other for ever.
    """

    transport: Any  # a DatagramPort

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer a marked request, unless it was sent to a broadcast or multicast address."""
        words = datagram.removeprefix(MARK)
        if words != datagram and not self.transport.group:
            print(f"A request to {self.transport.asked}", flush=True)
            self.transport.write(words.upper(), addr)


async def serve(reactor: Any, number: str = "8088") -> None:
    """Shout until stopped."""
    sock = datagram_socket("", int(number))
    port = DatagramPort(
        sock,
        Shout(),
        reactor,
        longest=512,
        dropped=lambda reason: print(f"Dropped: {reason}", flush=True),
    )
    port.startListening()
    print(f"Server start at port: {sock.getsockname()[1]}", flush=True)
    await Deferred()


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    react(lambda *arguments: Deferred.fromCoroutine(serve(*arguments)), sys.argv[1:])
