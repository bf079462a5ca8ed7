from __future__ import annotations

import socket
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from greetsvc.net.linger.half_close import LingeringClose
from greetsvc.net.linger.sweep import ILingers
from greetsvc.net.linger.watched import MAX_DISCARDED
from tests.support.waiting import until


class Transport(StringTransport):
    """A transport that notes how it is closed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.told: list[str] = []

    def loseWriteConnection(self) -> None:
        self.told.append("half-close")

    def loseConnection(self) -> None:
        self.told.append("close")

    def abortConnection(self) -> None:
        self.told.append("abort")


def closing(clock: Clock, transport: Any, **bounds: Any) -> LingeringClose:
    return LingeringClose(transport, cast("Any", clock), **{"silence": 2.0, "lifetime": 10.0, **bounds})


def test_a_silent_peer_is_closed_after_the_silence_and_aborted_at_the_lifetime() -> None:
    clock, transport = Clock(), Transport()
    closing(clock, transport)
    assert transport.told == ["half-close"]
    clock.advance(2)
    assert transport.told == ["half-close", "close"]
    clock.advance(8)
    assert transport.told == ["half-close", "close", "abort"]
    assert not clock.getDelayedCalls()


def test_a_peer_that_sends_has_the_whole_lifetime() -> None:
    clock, transport = Clock(), Transport()
    close = closing(clock, transport)
    for _ in range(9):
        clock.advance(1)
        close.discard(b"more")
    assert transport.told == ["half-close"]
    clock.advance(1)
    assert transport.told == ["half-close", "abort"]


def test_a_peer_that_sends_too_much_is_aborted() -> None:
    clock, transport = Clock(), Transport()
    close = closing(clock, transport)
    close.discard(bytes(MAX_DISCARDED))
    assert transport.told == ["half-close"]
    close.discard(b"x")
    assert transport.told == ["half-close", "abort"]
    close.stop()
    close.stop()
    assert not clock.getDelayedCalls()


def test_tls_uses_its_own_close_in_the_same_bounds() -> None:
    clock, transport = Clock(), Transport()
    alsoProvides(transport, ISSLTransport)
    closing(clock, transport)
    assert transport.told == ["close"]
    clock.advance(2)
    assert transport.told == ["close", "abort"]
    assert not clock.getDelayedCalls()


class Polite(Protocol):
    """A protocol that runs on any transport, as the module describes it."""

    closing: LingeringClose | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"hello\r\n")
        lingers: bool = ILingers.providedBy(transport)
        if lingers:
            transport.loseConnection()
        else:
            self.closing = LingeringClose(transport, cast("Any", reactor), lifetime=10)

    def dataReceived(self, data: bytes) -> None:
        assert self.closing is not None
        self.closing.discard(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.closing is not None:
            self.closing.stop()
        self.factory.ends.append(type(reason.value).__name__)


def send_much_then_read(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(bytes(1 << 20))
        read = b""
        while data := client.recv(65536):
            read += data
        return read


@pytest.mark.parametrize("peers", [20])
@pytest_twisted.ensureDeferred
async def test_on_any_transport_clients_that_are_still_sending_read_the_whole_greeting(
    listening: Any, peers: int
) -> None:
    factory: Any = Factory.forProtocol(Polite)
    factory.ends = []
    port = listening.listen(factory)
    clients = [deferToThread(send_much_then_read, port.getHost().port) for _ in range(peers)]
    assert [await client.addTimeout(20, reactor) for client in clients] == [b"hello\r\n"] * peers
    await until(lambda: len(factory.ends) == peers)
    assert factory.ends == ["ConnectionDone"] * peers
