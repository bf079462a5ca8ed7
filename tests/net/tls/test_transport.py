# mypy: allow-untyped-calls
"""The TLS transport in memory: what a protocol gets, what is reported, and which parts of Twisted's it stands on."""

from __future__ import annotations

import ast
import inspect
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.protocols import tls
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc.net.tls import transport as our_module
from greetsvc.net.tls.certificates import CertificateFiles
from greetsvc.net.tls.connection import Connection
from greetsvc.net.tls.contexts import ReloadingContexts
from greetsvc.net.tls.hello import LONGEST
from greetsvc.net.tls.transport import TlsFactory, TlsTransport
from tests.support.certificates import issue

UNDOCUMENTED = {
    "_aborted",
    "_bufferedWrite",
    "_checkHandshakeStatus",
    "_creatorCallable",
    "_flushSendBIO",
    "_handshakeDone",
    "_lostTLSConnection",
    "_shutdownTLS",
    "_tlsConnection",
    "_tlsShutdownFinished",
    "_write",
}
"""The undocumented names of Twisted's TLS transport and factory that net/tls uses or overrides."""


def test_the_undocumented_names_that_we_use_are_all_there() -> None:
    theirs = {
        name
        for node in ast.walk(ast.parse(inspect.getsource(tls)))
        for name in (getattr(node, "attr", None), getattr(node, "name", None))
        if name
    }
    classes = [node for node in ast.walk(ast.parse(inspect.getsource(our_module))) if isinstance(node, ast.ClassDef)]
    ours = {
        name
        for each in classes
        for node in ast.walk(each)
        for name in (getattr(node, "attr", None), getattr(node, "name", None))
        if name and name.startswith("_") and not name.startswith("__")
    }
    assert ours & theirs == UNDOCUMENTED


@implementer(IHandshakeListener)
class Talker(Protocol):
    """Keeps what it gets; says ``hello`` when the handshake is complete, or before."""

    def __init__(self, early: bool) -> None:
        self.early = early
        self.got = b""
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        if self.early:
            self.say()

    def handshakeCompleted(self) -> None:
        if not self.early:
            self.say()

    def say(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        if self.early:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Lingering(StringTransportWithDisconnection):
    """A transport that has what ours have."""

    def call_when_closed(self, call: Callable[[], object]) -> None:
        """Never."""


@define
class Session:
    """One connection between OpenSSL's client and a `Talker`."""

    folder: Path
    early: bool = False
    lingers: bool = True
    reasons: list[str] = field(factory=list)
    clock: Clock = field(factory=Clock)
    incoming: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    client: Any = None
    server: Any = None
    talker: Any = None
    below: Any = None

    def __attrs_post_init__(self) -> None:
        path = self.folder / "server.pem"
        if not path.exists():
            path.write_bytes(issue("server").both_pem)
        factory = Factory.forProtocol(lambda: Talker(self.early))
        contexts = ReloadingContexts(CertificateFiles(path, path), reactor=self.clock)
        self.server = TlsFactory(contexts, factory, self.failed, self.clock).buildProtocol(None)
        self.below = (Lingering if self.lingers else StringTransportWithDisconnection)()
        self.below.protocol = self.server
        self.server.makeConnection(self.below)
        self.talker = self.server.wrappedProtocol
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.client = context.wrap_bio(self.incoming, self.outgoing)

    def failed(self, reason: str, peer: IAddress) -> None:
        assert peer == self.below.getPeer()
        self.reasons.append(reason)

    def shake_hands(self) -> Session:
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.pass_on()
        return self

    def pass_on(self) -> None:
        if said := self.outgoing.read():
            self.server.dataReceived(said)
        self.clock.advance(0)
        self.incoming.write(self.below.value())
        self.below.clear()


def test_what_comes_with_the_last_bytes_of_the_handshake_is_delivered(tmp_path: Path) -> None:
    session = Session(tmp_path)
    with pytest.raises(ssl.SSLWantReadError):
        session.client.do_handshake()
    session.pass_on()
    session.client.do_handshake()
    data = bytes(range(256)) * 1024
    session.client.write(data)
    session.pass_on()
    assert session.talker.got == data
    assert session.client.read(100) == b"hello"
    assert not session.reasons


@pytest.mark.parametrize("lingers", [False, True])
def test_what_a_protocol_writes_before_the_handshake_is_sent_after_it(tmp_path: Path, lingers: bool) -> None:
    session = Session(tmp_path, early=True, lingers=lingers).shake_hands()
    assert session.client.read(100) == b"hello"
    assert session.client.read(100) == b""  # close_notify
    assert not session.reasons


def test_a_lingering_transport_is_closed_with_close_notify_and_nothing_is_decrypted_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path, early=True).shake_hands()
    assert not session.below.connected
    monkeypatch.setattr(Connection, "bio_write", lambda *_: pytest.fail("decrypted"))
    session.server.dataReceived(b"x" * 100)
    assert not session.talker.got


def test_on_another_transport_the_close_waits_for_the_peer(tmp_path: Path) -> None:
    session = Session(tmp_path, early=True, lingers=False).shake_hands()
    assert session.below.connected
    session.client.read(100)
    with suppress(ssl.SSLError):
        session.client.unwrap()
    session.pass_on()
    assert not session.below.connected
    assert not session.reasons


@pytest.mark.parametrize("error", [SSL.ZeroReturnError(), SSL.WantWriteError(), SSL.WantX509LookupError()])
@pytest.mark.parametrize("call", ["do_handshake", "recv", "send"])
def test_errors_without_arguments_end_the_connection_and_raise_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: SSL.Error
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Connection, call, fail)
    session = Session(tmp_path).shake_hands()
    with suppress(ssl.SSLError):
        session.client.write(b"x")
    session.pass_on()
    assert not session.below.connected
    assert session.talker.lost is not None
    assert session.reasons == (["tls-closed"] if call == "do_handshake" else [])


def test_what_cannot_be_decrypted_is_reported_and_an_end_without_close_notify_is_not(tmp_path: Path) -> None:
    session = Session(tmp_path).shake_hands()
    session.server.dataReceived(b"\x17\3\3\0\x20" + bytes(32))
    assert session.reasons == ["tls-record"]
    ended = Session(tmp_path).shake_hands()
    ended.below.loseConnection()
    assert ended.talker.lost is not None
    assert not ended.reasons


@pytest.mark.parametrize("hello", [b"", b"\x16\3\1\1\0\1\0\0\xfc"])
def test_an_abort_before_the_handshake_is_reported_once(tmp_path: Path, hello: bytes) -> None:
    session = Session(tmp_path)
    session.server.dataReceived(hello)
    session.talker.transport.abortConnection()
    assert not session.below.connected
    assert session.reasons == ["tls-timeout"]
    assert session.talker.lost is not None
    session.talker.transport.write(b"late")
    session.talker.transport.abortConnection()
    assert session.reasons == ["tls-timeout"]


def test_openssl_is_not_asked_before_the_hello_is_complete(tmp_path: Path) -> None:
    session = Session(tmp_path)
    assert session.talker.transport.getHandle() is None
    with pytest.raises(ssl.SSLWantReadError):
        session.client.do_handshake()
    hello = session.outgoing.read()
    for byte in hello[:-1]:
        session.server.dataReceived(bytes([byte]))
    assert session.talker.transport.getHandle() is None
    session.server.dataReceived(hello[-1:])
    assert isinstance(session.talker.transport.getHandle(), SSL.Connection)
    assert session.below.value()


def test_at_most_16_kib_are_taken_before_the_handshake_is_done(tmp_path: Path) -> None:
    session = Session(tmp_path)
    with pytest.raises(ssl.SSLWantReadError):
        session.client.do_handshake()
    hello = session.outgoing.read()
    session.server.dataReceived(hello)
    rest = LONGEST - len(hello)
    session.server.dataReceived((b"\x17\3\3\x40\0" + bytes(LONGEST))[:rest])
    assert session.below.connected
    session.server.dataReceived(b"x")
    assert not session.below.connected
    assert session.reasons == ["tls-hello-size"]


def test_the_factory_makes_our_transport(tmp_path: Path) -> None:
    assert isinstance(Session(tmp_path).server, TlsTransport)
