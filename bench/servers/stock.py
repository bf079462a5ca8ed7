"""Twisted as it comes. `python -m bench.servers.stock tcp|udp|udp-wildcard|hold|lines`."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol, Protocol, ServerFactory
from twisted.protocols.basic import LineReceiver

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


class Talk(LineReceiver):
    """Greet, then greet each name."""

    MAX_LENGTH = 4096
    delimiter = b"\n"

    def connectionMade(self) -> None:
        """Greet."""
        self.sendLine(b"Hello, stranger\r")  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        """Greet who is named."""
        name = line.decode("utf-8").removesuffix("\r")
        self.sendLine(f"Hello, {name}\r".encode())  # type: ignore[no-untyped-call]


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
        factory.protocol = {"hold": GreetAndStay, "lines": Talk}.get(kind, Greet)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, backlog=BACKLOG, interface=HOST)
    ready(port.getHost().port)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
