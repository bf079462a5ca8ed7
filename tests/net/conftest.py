"""Listeners on Twisted's own transports and on ours, and a peer that says what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.stream.facade import ListeningReactor
from tests.support.certificates import issue


class Peer(Protocol):
    """A client: what it reads, and how that ends."""

    def __init__(self) -> None:
        self.read = b""
        self.seen: Callable[[], object] = lambda: None
        self.closed: Deferred[str] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.read += data
        self.seen()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(type(reason.value).__name__)

    async def finish(self) -> tuple[bytes, str]:
        """All that was read, and the name of the reason why it ended."""
        reason = await self.closed.addTimeout(10, reactor)
        return self.read, reason

    async def until(self, length: int) -> bytes:
        """What was read, once it is this long."""
        enough: Deferred[None] = Deferred()

        def seen() -> None:
            if len(self.read) >= length and not enough.called:
                enough.callback(None)

        self.seen = seen
        seen()
        await enough.addTimeout(10, reactor)
        return self.read


@define
class Listening:
    """A reactor to listen with, and what was made with it."""

    name: str
    reactor: Any
    family: str
    folder: Path
    ports: list[Any] = field(factory=list)

    def listen(self, factory: Any, **options: Any) -> Any:
        """A listener of this kind and family for ``factory``, which accepts already."""
        if self.family == "unix":
            port = self.reactor.listenUNIX(str(self.folder / f"{len(self.ports)}.sock"), factory, **options)
        else:
            port = self.reactor.listenTCP(0, factory, interface="127.0.0.1", **options)
        self.ports.append(port)
        return port

    async def connect(self, port: Any) -> Peer:
        """A peer of ``port``."""
        return await connect_to(port.getHost())


async def connect_to(address: Any) -> Peer:
    endpoint: Any
    if isinstance(address, UNIXAddress):
        assert address.name is not None
        endpoint = UNIXClientEndpoint(reactor, address.name.decode())
    elif ":" in address.host:
        endpoint = HostnameEndpoint(reactor, address.host, address.port)
    else:
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port)
    peer: Peer = await connectProtocol(endpoint, Peer())
    return peer


@pytest.fixture
def connect() -> Callable[[Any], Any]:
    """Connects a `Peer` to an address."""
    return connect_to


@pytest.fixture
def turn() -> Callable[[], Any]:
    """Lets the reactor turn once."""
    return lambda: deferLater(reactor, 0, lambda: None)


@pytest.fixture
def lingerers() -> Iterator[Lingerers]:
    """Lingering sockets of the global reactor; the test ends with none."""
    kept = Lingerers(cast("Any", reactor), lifetime=10, max_sockets=1000)
    yield kept
    kept.stop()


@pytest.fixture
def facade(lingerers: Lingerers) -> ListeningReactor:
    """The global reactor with our listeners, which accept at once."""
    ours = ListeningReactor(reactor, lingerers=lingerers)
    ours.begin()
    return ours


def _listening(name: str, facade: ListeningReactor, family: str, folder: Path) -> Iterator[Listening]:
    kind = Listening(name, facade if name == "ours" else reactor, family, folder)
    yield kind
    for port in kind.ports:
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture(params=["stock", "ours"])
def listening(request: pytest.FixtureRequest, facade: ListeningReactor, tmp_path: Path) -> Iterator[Listening]:
    """TCP listeners, Twisted's own and ours in turn."""
    yield from _listening(request.param, facade, "tcp", tmp_path)


@pytest.fixture(params=["stock-tcp", "stock-unix", "ours-tcp", "ours-unix"])
def everywhere(request: pytest.FixtureRequest, facade: ListeningReactor, tmp_path: Path) -> Iterator[Listening]:
    """TCP and UNIX listeners, Twisted's own and ours in turn."""
    name, family = request.param.split("-")
    yield from _listening(name, facade, family, tmp_path)


@pytest.fixture
def ours(facade: ListeningReactor, tmp_path: Path) -> Iterator[Listening]:
    """TCP listeners of ours."""
    yield from _listening("ours", facade, "tcp", tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost, signed by itself; alone in its folder."""
    path = tmp_path_factory.mktemp("certificate") / "localhost.pem"
    path.write_bytes(issue("localhost", "localhost").both_pem)
    return path


@pytest.fixture
def server_tls(certificate: Path) -> DefaultOpenSSLContextFactory:
    """What a server needs to speak TLS."""
    return DefaultOpenSSLContextFactory(str(certificate), str(certificate), sslmethod=SSL.TLS_METHOD)


@pytest.fixture
def client_tls() -> Any:
    """What a client needs to speak TLS with anybody."""
    return CertificateOptions(verify=False)
