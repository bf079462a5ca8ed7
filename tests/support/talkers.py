"""Servers that go on talking: they greet, then answer each message; as bad as a test wants."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import Int32StringReceiver, LineReceiver, NetstringReceiver
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

Ending = Callable[[Any], None]


def fin(talker: Any) -> None:
    """Close with a FIN."""
    talker.transport.loseConnection()


def reset(talker: Any) -> None:
    """Close with a RST."""
    talker.transport.abortConnection()


def hang(talker: Any) -> None:
    """Answer nothing any more, and do not close."""
    talker.deaf = True


@define
class Rule:
    """What a talker does besides answering.

    After ``silence`` seconds without a message, or ``after`` messages, it ends as ``ending`` has it.
    """

    silence: float | None = None
    after: int | None = None
    ending: Ending = fin


class _Talker(Protocol):
    """Greets, and answers each message."""

    rule: Rule
    made: list[Any]
    deaf = False
    alive = True
    count = 0
    _timer: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self.made.append(self)
        self.say(b"Hello")
        self._wait()

    def _wait(self) -> None:
        self._stop()
        if self.rule.silence is not None:
            later: Any = reactor
            self._timer = later.callLater(self.rule.silence, self.rule.ending, self)

    def _stop(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def heard(self, message: bytes) -> None:
        if self.deaf:
            return
        self.count += 1
        if self.rule.after is not None and self.count > self.rule.after:
            self.rule.ending(self)
        else:
            self.say(b"Hello " + message)
            self._wait()

    def say(self, message: bytes) -> None:
        raise NotImplementedError

    def connectionLost(self, *_: Any) -> None:
        self.alive = False
        self._stop()


class _Lines(_Talker, LineReceiver):
    lineReceived = _Talker.heard

    def say(self, message: bytes) -> None:
        self.sendLine(message)  # type: ignore[no-untyped-call]


class _Netstrings(_Talker, NetstringReceiver):
    stringReceived = _Talker.heard

    def say(self, message: bytes) -> None:
        self.sendString(message)  # type: ignore[no-untyped-call]


class _Int32(_Talker, Int32StringReceiver):
    stringReceived = _Talker.heard

    def say(self, message: bytes) -> None:
        self.sendString(message)  # type: ignore[no-untyped-call]


PLAIN: dict[str, type[_Talker]] = {"lines": _Lines, "netstring": _Netstrings, "int32": _Int32}
TALKS = [*PLAIN, "websocket"]


@define
class Talkers:
    """Starts talkers; each method gives the target that `greet` is to be given."""

    made: list[Any] = field(factory=list)
    """The connections so far."""
    _ports: list[Any] = field(factory=list)
    _servers: list[Server] = field(factory=list)
    _threads: list[Thread] = field(factory=list)

    def start(
        self, protocol: str = "lines", rule: Rule | None = None, *, pem: str | None = None, path: Path | None = None
    ) -> str:
        """A talker on a port of its own, or at ``path``; over TLS with the key and certificate of ``pem``."""
        if protocol == "websocket":
            return self._websocket(rule or Rule(), pem)
        kind = type("Talker", (PLAIN[protocol],), {"rule": rule or Rule(), "made": self.made})
        factory = Factory.forProtocol(kind)
        factory.noisy = False
        core: Any = reactor
        if path is not None:
            self._ports.append(core.listenUNIX(str(path), factory))
            return f"unix:{path}"
        if pem is None:
            port = core.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = core.listenSSL(0, factory, DefaultOpenSSLContextFactory(pem, pem), interface="127.0.0.1")
        self._ports.append(port)
        return f"{'tcp' if pem is None else 'tls'}:127.0.0.1:{port.getHost().port}"

    def _websocket(self, rule: Rule, pem: str | None) -> str:
        """Its endings are those of WebSocket: it closes with a reason."""

        def talk(connection: ServerConnection) -> None:
            connection.send("Hello")
            answered = 0
            with suppress(ConnectionClosed, TimeoutError):
                while rule.after is None or answered < rule.after:
                    message = connection.recv(rule.silence)
                    connection.send(f"Hello {message!s}")
                    answered += 1
            connection.close(1008, "enough")

        context = None
        if pem is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
        server = serve(talk, "127.0.0.1", 0, ssl=context, ping_interval=None)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self._servers.append(server)
        self._threads.append(thread)
        return f"{'tls' if pem else 'tcp'}:127.0.0.1:{server.socket.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop them all."""
        for server, thread in zip(self._servers, self._threads, strict=True):
            await deferToThread(server.shutdown)  # the reactor goes on: our own end has to close, too
            thread.join(10)
        for talker in self.made:
            if talker.alive:
                talker.transport.abortConnection()
        await gatherResults([maybeDeferred(port.stopListening) for port in self._ports])


@pytest_twisted.async_yield_fixture
async def talkers() -> AsyncIterator[Talkers]:
    """The talkers of one test."""
    started = Talkers()
    yield started
    await started.stop()


@pytest.fixture(params=TALKS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Each protocol in turn."""
    return str(request.param)
