"""Twisted as it comes. `python -m bench.servers.stock tcp|udp|udp-wildcard|hold`."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol, Protocol, ServerFactory

from bench.servers import BACKLOG, GREETING, HOST, ready


class Greet(Protocol):
    """Write, then lose the connection."""

    def connectionMade(self) -> None:
        """Greet."""
        self.transport.write(GREETING)  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


class GreetAndStay(Protocol):
    """Write, and keep the connection: what a held one takes."""

    def connectionMade(self) -> None:
        """Greet."""
        self.transport.write(GREETING)  # type: ignore[union-attr]


class Answer(DatagramProtocol):
    """Answer whatever comes."""

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """Greet the sender."""
        self.transport.write(GREETING, addr)  # type: ignore[union-attr]


def main(kind: str) -> None:
    """Listen and say where."""
    if kind.startswith("udp"):
        interface = "" if kind == "udp-wildcard" else HOST
        port = reactor.listenUDP(0, Answer(), interface=interface)  # type: ignore[attr-defined]
    else:
        factory = ServerFactory()
        factory.protocol = GreetAndStay if kind == "hold" else Greet
        factory.noisy = False
        port = reactor.listenTCP(0, factory, backlog=BACKLOG, interface=HOST)
    ready(port.getHost().port)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
