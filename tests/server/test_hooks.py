# mypy: allow-untyped-calls
# (twisted.protocols.policies has no types.)
"""Each method that a subclass may override is called for every connection, on the real listener."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import alsoProvides

from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.stream.facade import ListeningReactor
from greetsvc.server import GreetingFactory, GreetingProtocol
from greetsvc.server.admission import Admission

GREETING = b"hello"
DEADLINE = 10.0


class Staying(GreetingProtocol):
    """Keeps the connection open until its deadline, which passes when the peer has sent something."""

    def greet(self) -> None:
        self.transport.write(self.greeting())

    def dataReceived(self, data: bytes) -> None:
        cast("Any", self.factory)._reactor.advance(DEADLINE)


class Shaking(ProtocolWrapper):
    """Stands for TLS: the handshake is complete when the peer has sent something."""

    def connectionMade(self) -> None:
        alsoProvides(self, ISSLTransport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        cast("Any", self.wrappedProtocol).handshakeCompleted()


class Handshakes(WrappingFactory):
    protocol = Shaking
    noisy = False


# Each hook, and the scene in which it is called: another protocol, a wrapper, or Twisted's own listener.
PROTOCOL_HOOKS: dict[str, str] = {
    "connectionMade": "",
    "greeting": "",
    "greet": "",
    "close": "",
    "connectionLost": "",
    "handshakeCompleted": "handshake",
    "dataReceived": "stays",
    "expire": "stays",
}
FACTORY_HOOKS: dict[str, str] = {
    "buildProtocol": "",
    "greeting": "",
    "greeted": "",
    "enter": "",
    "leave": "",
    "start_deadline": "stays",
    "lingering_close": "stock",
}
ADMISSION_HOOKS = ("source", "refusal", "enter", "leave")
VISITS = 2
"""The second visit is the one that a factory with a constant answer would not build a protocol for."""


def overriding(base: type, hook: str, calls: list[str]) -> Any:
    """A subclass of ``base`` that overrides one method, which notes its calls and does what it did before."""

    def noted(self: Any, *arguments: Any) -> Any:
        calls.append(hook)
        return getattr(super(made, self), hook)(*arguments)

    made = type(f"Own{base.__name__}", (base,), {hook: noted})
    return made


def visited(address: Any) -> bytes:
    """What a visitor reads that sends a word first."""
    said = b""
    with socket.create_connection(address, timeout=5) as client, suppress(ConnectionResetError):
        client.sendall(b"hi")
        while piece := client.recv(100):
            said += piece
    return said


@pytest.fixture
def lingerers() -> Iterator[Lingerers]:
    kept = Lingerers(cast("Any", reactor), lifetime=10, max_sockets=100)
    yield kept
    kept.stop()


async def serve(factory: GreetingFactory, lingerers: Lingerers, scene: str) -> list[bytes]:
    """What visitors of ``factory`` read one after the other, once all their connections are closed."""
    listening: Any = reactor
    if scene != "stock":
        listening = ListeningReactor(reactor, lingerers=lingerers)
        listening.begin()
    wrapped: Any = Handshakes(cast("Any", factory)) if scene == "handshake" else factory
    port = listening.listenTCP(0, wrapped, interface="127.0.0.1")
    address = ("127.0.0.1", port.getHost().port)
    said = [await deferToThread(visited, address).addTimeout(10, reactor) for _ in range(VISITS)]
    for _ in range(500):
        if not factory.admission.open:
            break
        await deferLater(reactor, 0.01, lambda: None)
    assert factory.admission.open == 0
    await port.stopListening()
    factory.abort()
    return said


def made(scene: str, kind: type[GreetingFactory] = GreetingFactory, **options: Any) -> GreetingFactory:
    clock: Any = Clock() if scene == "stays" else reactor
    factory = kind(TextGreeter(GREETING.decode()), deadline=DEADLINE, reactor=clock, **options)
    if scene == "stays":
        factory.protocol = Staying
    return factory


@pytest.mark.parametrize(("hook", "scene"), PROTOCOL_HOOKS.items())
@pytest_twisted.ensureDeferred
async def test_a_method_of_a_protocol_can_be_overridden(hook: str, scene: str, lingerers: Lingerers) -> None:
    calls: list[str] = []
    factory = made(scene)
    factory.protocol = overriding(factory.protocol, hook, calls)
    assert await serve(factory, lingerers, scene) == [GREETING] * VISITS
    assert calls == [hook] * VISITS


@pytest.mark.parametrize(("hook", "scene"), FACTORY_HOOKS.items())
@pytest_twisted.ensureDeferred
async def test_a_method_of_a_factory_can_be_overridden(hook: str, scene: str, lingerers: Lingerers) -> None:
    calls: list[str] = []
    factory = made(scene, overriding(GreetingFactory, hook, calls))
    assert await serve(factory, lingerers, scene) == [GREETING] * VISITS
    assert calls == [hook] * VISITS


@pytest.mark.parametrize("hook", FACTORY_HOOKS)
@pytest_twisted.ensureDeferred
async def test_a_method_of_one_factory_object_can_be_replaced(
    hook: str, lingerers: Lingerers, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    factory = made(FACTORY_HOOKS[hook])
    original = getattr(factory, hook)

    def noted(*arguments: Any) -> Any:
        calls.append(hook)
        return original(*arguments)

    monkeypatch.setattr(factory, hook, noted)
    assert await serve(factory, lingerers, FACTORY_HOOKS[hook]) == [GREETING] * VISITS
    assert calls == [hook] * VISITS


@pytest.mark.parametrize("hook", ADMISSION_HOOKS)
@pytest_twisted.ensureDeferred
async def test_a_method_of_an_admission_can_be_overridden(hook: str, lingerers: Lingerers) -> None:
    calls: list[str] = []
    factory = made("", admission=overriding(Admission, hook, calls)())
    assert await serve(factory, lingerers, "") == [GREETING] * VISITS
    assert calls == [hook] * VISITS


@pytest.mark.parametrize("hook", ["greet", "refuse"])
@pytest_twisted.ensureDeferred
async def test_a_method_of_a_ledger_can_be_overridden(hook: str, lingerers: Lingerers) -> None:
    calls: list[str] = []
    admission = Admission(max_connections=0 if hook == "refuse" else None)
    factory = made("", admission=admission, ledger=overriding(Ledger, hook, calls)())
    assert await serve(factory, lingerers, "") == [b"" if hook == "refuse" else GREETING] * VISITS
    assert calls == [hook] * VISITS


def test_every_public_method_of_the_protocol_and_of_the_factory_is_in_these_tests() -> None:
    def public(kind: type) -> set[str]:
        return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}

    assert public(GreetingProtocol) == {*PROTOCOL_HOOKS}
    assert public(GreetingFactory) - {"protocol", "abort", "finish"} == {*FACTORY_HOOKS}
