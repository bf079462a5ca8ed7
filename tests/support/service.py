"""The real service in this process, and the clients that visit it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from attrs import field, frozen

from greetsvc.daemon.config import settings
from greetsvc.daemon.listeners import DatagramListening
from greetsvc.daemon.service import GreetingService
from greetsvc.ledger import Ledger
from tests.support.waiting import PATIENCE


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
        places = [place for one in self.service._listening for place in one.places()]
        return [int(place.removeprefix("port: ")) for place in places if place.startswith("port: ")]

    def send(self, datagram: bytes, to: Any) -> None:
        """Send from the socket of its first datagram listener: what whoever forges its address can do."""
        first = next(one for one in self.service._listening if isinstance(one, DatagramListening))
        first.protocol.transport.write(datagram, to)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts services in this process; they are stopped at the end."""
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


# Visits from another process, so that what the test does meanwhile does not count.
HONEST = """
import json, socket, sys, time
port, source, seconds, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
took, missed, end = [], 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    begun = time.perf_counter()
    with socket.socket() as sock:
        sock.settimeout(10)
        try:
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", port))
            said = b""
            while part := sock.recv(1000):
                said += part
        except OSError:
            said = b""
    took.append(time.perf_counter() - begun)
    missed += not said
    time.sleep(pause)
print(json.dumps([took, missed]))
"""


@frozen
class Greeted:
    """How honest clients fared: the seconds that each visit took, sorted, and how many had no greeting."""

    took: list[float]
    missed: int

    def p(self, share: float) -> float:
        """A percentile, in seconds."""
        return self.took[min(int(len(self.took) * share), len(self.took) - 1)]

    def __str__(self) -> str:
        times = f"p50 {self.p(0.5):.4f} s, p99 {self.p(0.99):.4f} s, longest {self.took[-1]:.4f} s"
        return f"{len(self.took)} visits, {self.missed} missed, {times}"


@pytest.fixture
def honest() -> Callable[..., Greeted]:
    """Visits a port, one connection after the other, for so many seconds, and tells how it went."""

    def visit(port: int, seconds: float, source: str = "127.200.0.1", pause: float = 0.005) -> Greeted:
        command = [sys.executable, "-c", HONEST, str(port), source, str(seconds), str(pause)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=seconds + PATIENCE)
        took, missed = json.loads(done.stdout)
        return Greeted(sorted(took), missed)

    return visit


def ask(host: str, port: int, family: socket.AddressFamily = socket.AF_INET, source: str = "") -> bytes:
    """A connected socket hears only the address that it asked."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        sock.send(b"hello")
        return sock.recv(1000)
