"""The classes that a Twisted programmer extends, in a program of their own, on Twisted's own transports."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from greetsvc.greeters.text import TextGreeter
from greetsvc.server import GreetingDatagramProtocol, GreetingFactory, GreetingProtocol
from greetsvc.server.admission import Admission
from greetsvc.visit import Visit
from tests.support.waiting import until

reactor: Any = global_reactor


class Weather:
    """A greeter as a user writes it."""

    needs = frozenset({"peer"})

    def greet(self, visit: Visit) -> bytes:
        return f"It is fine at {visit.peer.host}\n".encode()


class Polite(GreetingProtocol):
    """A protocol as a user writes it."""

    def greeting(self) -> bytes:
        return b"Good day. " + super().greeting()


class Guestbook(GreetingProtocol):
    """A protocol that goes on talking."""

    def greet(self) -> None:
        self.transport.write(b"Who are you?\n")
        self.factory.greeted(self)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"Hello, " + data)
        self.close()


async def _thread(call: Any, *arguments: Any) -> Any:
    return await deferToThread(call, *arguments).addTimeout(10, reactor)


def _reads(address: Any, says: bytes = b"", family: int = socket.AF_INET, half_close: bool = False) -> bytes:
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        if says:
            client.sendall(says)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        said = b""
        while piece := client.recv(100):
            said += piece
        return said


async def _until_empty(factory: GreetingFactory) -> None:
    await until(lambda: not factory.admission.open, lambda: f"{factory.admission.open} connections are open")


async def _served(factory: GreetingFactory, *arguments: Any, **options: Any) -> bytes:
    """What a client reads of the factory behind the stock ``listenTCP``."""
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        said: bytes = await _thread(_reads, ("127.0.0.1", port.getHost().port), *arguments, **options)
        await _until_empty(factory)
    finally:
        await port.stopListening()
        factory.abort()
    return said


@pytest_twisted.ensureDeferred
async def test_a_users_greeter_greets() -> None:
    assert await _served(GreetingFactory(Weather())) == b"It is fine at 127.0.0.1\n"


@pytest_twisted.ensureDeferred
async def test_a_users_protocol_greets() -> None:
    factory = GreetingFactory(Weather())
    factory.protocol = Polite
    assert await _served(factory) == b"Good day. It is fine at 127.0.0.1\n"
    assert factory.ledger.greeted == {"tcp": 1}


@pytest_twisted.ensureDeferred
async def test_a_users_protocol_may_go_on_talking() -> None:
    factory = GreetingFactory(Weather())
    factory.protocol = Guestbook
    assert await _served(factory, b"Ada") == b"Who are you?\nHello, Ada"


@pytest_twisted.ensureDeferred
async def test_on_a_stock_transport_too_clients_that_are_still_sending_read_the_greeting() -> None:
    factory = GreetingFactory(TextGreeter("Hi"))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    address = ("127.0.0.1", port.getHost().port)
    for _ in range(20):
        assert await _thread(_reads, address, b"." * (1 << 20)) == b"Hi"
    await _until_empty(factory)
    await port.stopListening()
    factory.abort()


@pytest_twisted.ensureDeferred
async def test_on_a_stock_transport_a_peer_that_does_not_close_is_closed() -> None:
    factory = GreetingFactory(TextGreeter("Hi"), linger=0.05)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=5) as client:
        assert await _thread(client.recv, 10) == b"Hi"
        assert await _thread(client.recv, 10) == b""
        assert factory.admission.open == 1
        await _until_empty(factory)
    await port.stopListening()
    factory.abort()


@pytest_twisted.ensureDeferred
async def test_on_a_stock_transport_a_peer_that_has_sent_its_fin_is_greeted() -> None:
    assert await _served(GreetingFactory(TextGreeter("Hi")), b"x", socket.AF_INET, True) == b"Hi"


@pytest_twisted.ensureDeferred
async def test_on_a_stock_transport_limits_hold() -> None:
    factory = GreetingFactory(TextGreeter("Hi"), admission=Admission(max_connections=0))
    assert await _served(factory) == b""
    assert factory.ledger.refused == {"max-connections": 1}


@pytest_twisted.ensureDeferred
async def test_a_factory_greets_on_a_stock_unix_port(tmp_path: Path) -> None:
    factory = GreetingFactory(TextGreeter("Hi {transport}"), transport="unix")
    port = reactor.listenUNIX(str(tmp_path / "x"), factory)
    assert await _thread(_reads, str(tmp_path / "x"), b"", socket.AF_UNIX) == b"Hi unix"
    await _until_empty(factory)
    await port.stopListening()
    factory.abort()


@pytest_twisted.ensureDeferred
async def test_a_datagram_protocol_greets_on_a_stock_udp_port() -> None:
    protocol = GreetingDatagramProtocol(Weather())
    port = reactor.listenUDP(0, protocol, interface="127.0.0.1")

    def asks() -> bytes:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", port.getHost().port))
            client.send(b"")
            return client.recv(100)

    assert await _thread(asks) == b"It is fine at 127.0.0.1\n"
    await port.stopListening()
    assert protocol.ledger.greeted == {"udp": 1}


@pytest.mark.parametrize("wrong", [RuntimeError("not now"), SystemExit("not now")])
@pytest_twisted.ensureDeferred
async def test_a_greeter_that_fails_ends_its_connection_and_no_other(
    wrong: BaseException, logged_errors: Any
) -> None:
    class Moody(Weather):
        turns = 0

        def greet(self, visit: Visit) -> bytes:
            self.turns += 1
            if self.turns == 1:
                raise wrong
            return super().greet(visit)

    factory = GreetingFactory(Moody())
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    address = ("127.0.0.1", port.getHost().port)
    assert await _thread(_reads, address) == b""
    assert factory.ledger.refused == {"greeter": 1}
    assert await _thread(_reads, address) == b"It is fine at 127.0.0.1\n"
    assert [str(error) for error in logged_errors.flush(type(wrong))] == ["not now"]
    await _until_empty(factory)
    await port.stopListening()
    factory.abort()


@pytest.mark.parametrize("said", ["text", None])
def test_a_greeter_that_returns_no_bytes_is_counted_and_logged_once_a_second(said: Any, logged_errors: Any) -> None:
    class Wrong(Weather):
        def greet(self, visit: Visit) -> Any:
            return said

    factory = GreetingFactory(Wrong())
    protocol = GreetingDatagramProtocol(Wrong(), ledger=factory.ledger, transport="unixgram")
    sent: list[bytes] = []
    protocol.transport = type("Port", (), {"write": sent.append, "getHost": lambda self: None})()
    for _ in range(5):
        protocol.datagramReceived(b"x", "/run/x.sock")
    assert not sent
    assert factory.ledger.refused == {"greeter": 5}
    assert len(logged_errors.flush(TypeError)) == 1
