"""The real service in this process, and the clients that visit it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from attrs import field, frozen

from tests.support.waiting import until

if TYPE_CHECKING:
    from greetsvc.daemon.service import GreetingService
    from greetsvc.ledger import Ledger


@frozen
class Serving:
    """A service in this process."""

    service: GreetingService

    @property
    def ledger(self) -> Ledger:
        """Its counts."""
        return self.service.ledger

    @property
    def ports(self) -> list[int]:
        """Its ports, in the order of its listeners."""
        return [spot.port for one in self.service._listening for spot in one.spots() if spot.port]

    @property
    def admin_port(self) -> int:
        """The port of its admin site."""
        assert self.service._site is not None
        return self.service._site.spots()[0].port

    async def until_refused(self, reason: str, times: int) -> None:
        """Wait until it has refused so many visits for this reason."""
        await until(lambda: self.ledger.refused[reason] == times)

    def send(self, datagram: bytes, to: Any) -> None:
        """Send from the socket of its first datagram listener, as somebody could who forges its address."""
        from greetsvc.daemon.listeners import DatagramListening

        first = next(one for one in self.service._listening if isinstance(one, DatagramListening))
        transport: Any = first.protocol.transport
        transport.write(datagram, to)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts services in this process; they are stopped at the end."""
    # Here, because this module is loaded before coverage begins to measure.
    from greetsvc.daemon.service import GreetingService
    from greetsvc.daemon.settings.config import settings

    started: list[GreetingService] = []

    def start(*listen: str, **options: object) -> Serving:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        service = GreetingService(settings({"drain": 0, "log-visits": "off", **given}, listen))
        service.bind()
        service.startService()
        started.append(service)
        return Serving(service)

    yield start
    for service in started:
        if service.running:
            pytest_twisted.blockon(service.stopService())


@frozen
class Visitor:
    """Connects from an address that the test chooses, and reads to the end."""

    opened: list[socket.socket] = field(factory=list)

    def connect(
        self, port: int, host: str = "127.0.0.1", source: str = "", timeout: float = 10.0, window: int = 0
    ) -> socket.socket:
        """A connection that stays open until the test ends or closes it.

        With a small ``window`` in bytes, much of a long greeting stays with the service until it is read; the
        segments then have the size that they have elsewhere, for which the kernel keeps buffers of the usual size.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        self.opened.append(sock)
        sock.settimeout(timeout)
        if window:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        return sock

    def read(self, sock: socket.socket) -> bytes:
        """What comes until the end of the connection; a reset is an end."""
        data = bytearray()
        try:
            while part := sock.recv(65536):
                data += part
        except ConnectionError:
            pass
        sock.close()
        return bytes(data)

    def visit(self, port: int, host: str = "127.0.0.1", source: str = "", said: bytes = b"") -> bytes:
        """The greeting."""
        sock = self.connect(port, host, source)
        if said:
            sock.sendall(said)
        return self.read(sock)


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    """A visitor whose connections are closed at the end."""
    one = Visitor()
    yield one
    for sock in one.opened:
        sock.close()


def bind_beside(sock: socket.socket, source: str, port: int) -> None:
    """Bind to any port of another address of this host but ``port``, from which the service never answers."""
    with socket.socket(sock.family, sock.type) as taken:
        with suppress(OSError):  # another program has that port, so we do not get it
            taken.bind((source, port))
        sock.bind((source, 0))


def ask(
    host: str,
    port: int,
    family: socket.AddressFamily = socket.AF_INET,
    source: str = "",
    request: bytes = b"hello",
) -> bytes:
    """The answer to one datagram, over a connected socket: that hears only the address that it asked."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        if source:
            bind_beside(sock, source, port)
        sock.connect((host, port))
        sock.send(request)
        return sock.recv(2000)
