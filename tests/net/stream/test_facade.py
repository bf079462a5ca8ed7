from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    SSL4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    ILoggingContext,
    IReactorFDSet,
    IReactorSocket,
    IReactorSSL,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
    IReactorUNIX,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import makeBinding
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.linger.sweep import ILingers, Lingerers
from greetsvc.net.proxy.wrapper import ProxiedFactory
from greetsvc.net.sockets import ipv6_works
from greetsvc.net.stream.facade import ListeningReactor
from greetsvc.net.stream.listener import StreamPort
from tests.support.waiting import until

MUCH = b"0123456789abcdef" * 64 * 1024

needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="no IPv6 here")
old_certificates = pytest.mark.filterwarnings("ignore:.*(pyOpenSSL|X509|OpenSSL):DeprecationWarning")


class Greeter(Protocol):
    """Greets, and says when its socket is closed."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        factory: Any = self.factory
        factory.lingers.append(ILingers.providedBy(transport))
        transport.call_when_closed(lambda: factory.happened.append("closed"))
        transport.write(MUCH)
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.happened.append(type(reason.value).__name__)


class Greeting(Factory):
    protocol = Greeter
    noisy = False

    def __init__(self) -> None:
        self.lingers: list[bool] = []
        self.happened: list[str] = []


class TlsPeer(Protocol):
    def __init__(self) -> None:
        self.read = b""
        self.closed: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello to you")

    def dataReceived(self, data: bytes) -> None:
        self.read += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(type(reason.value).__name__)


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Listeners to be stopped when the test ends."""
    ports: list[Any] = []
    yield ports
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def factory() -> Greeting:
    return Greeting()


async def closed(factory: Greeting, lingerers: Lingerers) -> list[str]:
    """What happened at the server, once nothing lingers any more."""
    await until(lambda: "closed" in factory.happened and not lingerers.count)
    return factory.happened


def test_everything_but_stream_listeners_is_passed_to_the_real_reactor(facade: ListeningReactor) -> None:
    for interface in (
        IReactorTCP, IReactorSSL, IReactorUNIX, IReactorSocket, IReactorUDP, IReactorTime, IReactorFDSet,
    ):  # fmt: skip
        assert interface.providedBy(facade)
    assert facade.callLater == reactor.callLater
    real: Any = reactor
    assert facade.listenUDP == real.listenUDP
    with pytest.raises(AttributeError):
        facade.listenToTheWind()


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:0:interface=127.0.0.1",
        "tcp:0",
        "tcp:0:interface=127.0.0.1:backlog=1",
        "unix:{folder}/greet.sock",
        pytest.param(r"tcp:0:interface=\:\:1", marks=needs_ipv6),
        pytest.param(r"tcp:0:interface=\:\:", marks=needs_ipv6),
        pytest.param("tcp6:0", marks=needs_ipv6),
    ],
)
@pytest_twisted.ensureDeferred
async def test_plain_endpoints_make_our_listener(
    facade: ListeningReactor, lingerers: Lingerers, factory: Greeting, made: Any, tmp_path: Path, connect: Any,
    endpoint: str,
) -> None:  # fmt: skip
    port = await serverFromString(facade, endpoint.format(folder=tmp_path)).listen(factory)
    made.append(port)
    assert isinstance(port, StreamPort)
    assert IListeningPort.providedBy(port)
    address: Any = port.getHost()
    if getattr(address, "host", "") in {"0.0.0.0", "::"}:
        address = type(address)("TCP", {"0.0.0.0": "127.0.0.1", "::": "::1"}[address.host], address.port)
    peer = await connect(address)
    assert await peer.finish() == (MUCH, "ConnectionDone")
    assert await closed(factory, lingerers) == ["ConnectionDone", "closed"]
    assert factory.lingers == [True]


@old_certificates
@pytest.mark.parametrize(
    "endpoint", ["ssl:0:interface=127.0.0.1:privateKey={file}:certKey={file}", "tls:{folder}:port=0"]
)
@pytest_twisted.ensureDeferred
async def test_tls_endpoints_make_our_listener_and_linger(
    facade: ListeningReactor, lingerers: Lingerers, factory: Greeting, made: Any, certificate: Path, client_tls: Any,
    endpoint: str,
) -> None:  # fmt: skip
    if endpoint.startswith("tls") and not ipv6_works():
        pytest.skip("no IPv6 here")
    text = endpoint.format(
        file=quoteStringArgument(str(certificate)), folder=quoteStringArgument(str(certificate.parent))
    )
    port = await serverFromString(facade, text).listen(factory)
    made.append(port)
    assert isinstance(port, StreamPort)
    host: Any = port.getHost()
    client = SSL4ClientEndpoint(reactor, "::1" if ":" in host.host else "127.0.0.1", host.port, client_tls)
    peer = await connectProtocol(client, TlsPeer())
    assert await peer.closed.addTimeout(10, reactor) == "ConnectionDone"
    assert peer.read == MUCH
    assert await closed(factory, lingerers) == ["ConnectionDone", "closed"]
    assert factory.lingers == [True]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest_twisted.ensureDeferred
async def test_inherited_sockets_make_our_listener(
    facade: ListeningReactor, lingerers: Lingerers, factory: Greeting, made: Any, tmp_path: Path, connect: Any,
    family: socket.AddressFamily,
) -> None:  # fmt: skip
    path = tmp_path / "inherited.sock"
    with socket.socket(family) as sock:
        sock.bind(str(path) if family is socket.AF_UNIX else ("127.0.0.1", 0))
        sock.listen()
        endpoint = AdoptedStreamServerEndpoint(facade, os.dup(sock.fileno()), family)
        port = await endpoint.listen(factory)
        made.append(port)
        assert isinstance(port, StreamPort)
        peer = await connect(port.getHost())
        assert await peer.finish() == (MUCH, "ConnectionDone")
        await closed(factory, lingerers)
        await port.stopListening()
        assert path.is_socket() is (family is socket.AF_UNIX)  # it belongs to whoever passed it


def test_nothing_is_accepted_before_it_begins(lingerers: Lingerers, factory: Greeting, made: Any) -> None:
    facade = ListeningReactor(reactor, lingerers=lingerers)
    fd_set: Any = reactor
    first = facade.listenTCP(0, factory, interface="127.0.0.1")
    assert first not in fd_set.getReaders()
    assert facade.ports == [first]
    facade.begin()
    second = facade.listenTCP(0, factory, interface="127.0.0.1")
    assert {first, second} <= set(fd_set.getReaders())
    assert facade.ports == [first, second]
    made += [first, second]
    first.stopListening()
    assert facade.ports == [second]


def test_dropped_connections_of_every_listener_are_reported(factory: Greeting, made: Any) -> None:
    dropped: list[str] = []
    facade = ListeningReactor(reactor, dropped=dropped.append)
    made.append(facade.listenTCP(0, factory, interface="127.0.0.1"))
    made[0]._drop(OSError(errno.EMFILE, "Too many open files"))
    assert dropped == ["accept-EMFILE"]


def test_backlogs_are_as_long_as_the_kernel_allows(facade: ListeningReactor, factory: Greeting, made: Any) -> None:
    port: Any = facade.listenTCP(0, factory, backlog=1, interface="127.0.0.1")
    made.append(port)
    with_backlog = [socket.create_connection(("127.0.0.1", port.getHost().port), timeout=5) for _ in range(20)]
    for sock in with_backlog:
        sock.close()


@needs_ipv6
def test_ipv6_listeners_do_not_take_ipv4_on_a_port_with_an_ipv4_listener(
    lingerers: Lingerers, factory: Greeting, made: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    facade = ListeningReactor(reactor, lingerers=lingerers, v4_ports=frozenset({number}))
    made.append(facade.listenTCP(number, factory))
    made.append(facade.listenTCP(number, factory, interface="::"))
    both: Any = facade.listenTCP(0, factory, interface="::")
    made.append(both)
    with socket.create_connection(("127.0.0.1", both.getHost().port)):
        """An IPv6 listener elsewhere takes IPv4 too."""


@pytest.mark.parametrize("reuse_address", [False, True])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_binding_says_which_socket_options_it_wants(
    facade: ListeningReactor, factory: Greeting, made: Any, reuse_address: bool, reuse_port: bool
) -> None:
    binding = makeBinding("127.0.0.1", 0, reuseAddress=reuse_address, reusePort=reuse_port)
    for interface in ("", "127.0.0.1"):
        port: Any = facade.listenTCP(binding, factory, interface=interface)
        made.append(port)
        assert port.getHost().host == "127.0.0.1"
        assert bool(port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is reuse_address
        assert bool(port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)) is reuse_port
    again = makeBinding("127.0.0.1", made[0].getHost().port, reusePort=True)
    if reuse_port:
        made.append(facade.listenTCP(again, factory))
        assert made[-1].getHost() == made[0].getHost()
    else:
        with pytest.raises(CannotListenError):
            facade.listenTCP(again, factory)


@needs_ipv6
def test_a_binding_takes_ipv6_and_none_is_every_ipv4_address(
    facade: ListeningReactor, factory: Greeting, made: Any
) -> None:
    for address, host in (("::1", "::1"), ("", "0.0.0.0"), (None, "0.0.0.0")):
        port: Any = facade.listenTCP(makeBinding(address, 0), factory)  # type: ignore[arg-type]  # Binding has None
        made.append(port)
        assert port.getHost().host == host


@pytest_twisted.ensureDeferred
async def test_an_endpoint_with_a_binding_lands_on_our_listener(
    facade: ListeningReactor, factory: Greeting, made: Any, connect: Any
) -> None:
    endpoint = TCP4ServerEndpoint(facade, makeBinding("127.0.0.1", 0))
    made.append(await endpoint.listen(factory))
    assert isinstance(made[0], StreamPort)
    peer = await connect(made[0].getHost())
    assert await peer.finish() == (MUCH, "ConnectionDone")


def test_an_interface_that_is_not_that_of_the_binding_is_an_error(
    facade: ListeningReactor, factory: Greeting
) -> None:
    with pytest.raises(ValueError, match=r"interface: '::1' is not the address of the binding, '127\.0\.0\.1'"):
        facade.listenTCP(makeBinding("127.0.0.1", 0), factory, interface="::1")


def test_a_port_that_is_taken_is_an_error(
    facade: ListeningReactor, factory: Greeting, made: Any, tmp_path: Path
) -> None:
    made.append(facade.listenTCP(0, factory, interface="127.0.0.1"))
    with pytest.raises(CannotListenError):
        facade.listenTCP(made[0].getHost().port, factory, interface="127.0.0.1")
    made.append(facade.listenUNIX(os.fsencode(tmp_path / "a"), factory))
    with pytest.raises(CannotListenError):
        facade.listenUNIX(str(tmp_path / "a"), factory)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
def test_a_relative_unix_path_has_its_mode_and_is_removed_from_another_folder(
    facade: ListeningReactor, factory: Greeting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.chdir(tmp_path)
    port: Any = facade.listenUNIX("greet.sock", factory, mode=mode)
    assert stat.S_IMODE((tmp_path / "greet.sock").stat().st_mode) == mode
    assert port.getHost().name == b"greet.sock"
    monkeypatch.chdir("/")
    port.stopListening()
    assert list(tmp_path.iterdir()) == []


class Talkative(Greeting):
    noisy = True

    def doStart(self) -> None:
        """Without a line of its own."""

    doStop = doStart


@implementer(ILoggingContext)
class Named(Talkative):
    def logPrefix(self) -> str:
        return "The greeter"


async def life(server: Any, factory: Any, path: str, server_tls: Any, log_lines: list[str]) -> list[str]:
    """What is logged while a TCP, a UNIX and a TLS port of ``factory`` start and close."""
    log_lines.clear()
    ports = [
        server.listenTCP(0, factory, interface="127.0.0.1"),
        server.listenUNIX(path, factory),
        server.listenSSL(0, factory, server_tls, interface="127.0.0.1"),
    ]
    numbers = [str(ports[index].getHost().port) for index in (0, 2)]
    for port in ports:
        await maybeDeferred(port.stopListening)
    return [line.replace(numbers[0], "1").replace(numbers[1], "2") for line in log_lines]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", [Talkative, Named])
@pytest_twisted.ensureDeferred
async def test_a_noisy_factory_has_the_log_lines_of_twisted_when_its_port_starts_and_closes(
    facade: ListeningReactor, log_lines: list[str], tmp_path: Path, server_tls: Any, kind: type[Greeting],
    wrapped: bool,
) -> None:  # fmt: skip
    factory: Any = WrappingFactory(kind()) if wrapped else kind()
    factory.noisy = not wrapped
    path = str(tmp_path / "greet.sock")
    ours = await life(facade, factory, path, server_tls, log_lines)
    assert len(ours) == 6
    assert "(TLS Port 2 Closed)" in ours
    assert ours == await life(reactor, factory, path, server_tls, log_lines)


@pytest_twisted.ensureDeferred
async def test_a_port_of_a_factory_that_is_not_noisy_logs_nothing(
    facade: ListeningReactor, log_lines: list[str], tmp_path: Path, server_tls: Any
) -> None:
    quiet: Any = Greeting()
    wrapping = WrappingFactory(quiet)
    wrapping.noisy = False
    for factory in (quiet, wrapping, ProxiedFactory(quiet, trusted=bool, refused=bool)):
        assert await life(facade, factory, str(tmp_path / "greet.sock"), server_tls, log_lines) == []


@pytest_twisted.ensureDeferred
async def test_the_mode_of_a_unix_endpoint_is_kept_and_a_lock_file_is_not_made(
    facade: ListeningReactor, factory: Greeting, made: Any, tmp_path: Path
) -> None:
    path = tmp_path / "greet.sock"
    made.append(await serverFromString(facade, f"unix:{path}:mode=600:lockfile=1").listen(factory))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
