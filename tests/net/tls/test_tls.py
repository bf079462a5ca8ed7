from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IHandshakeListener, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from greetsvc.net.endpoint import parse_endpoint
from greetsvc.net.proxy.header import encode_v1
from greetsvc.net.proxy.wrapper import ProxiedFactory
from greetsvc.net.tls.certificates import CertificateDirectory, CertificateFiles, CertificateSource
from greetsvc.net.tls.contexts import ReloadingContexts
from greetsvc.net.tls.endpoint import TlsFacts, facts, tls_endpoint
from greetsvc.net.tls.pem import read_certificates
from tests.support.certificates import Issued, issue
from tests.support.waiting import until


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("root of the tests", authority=True)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning."""
    said: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.warn:
            said.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    globalLogPublisher.addObserver(observe)
    yield said
    globalLogPublisher.removeObserver(observe)


def put(path: Path, *blocks: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))
    return path


@define
class Handshake:
    """A handshake in memory with what a `ReloadingContexts` makes."""

    contexts: ReloadingContexts
    client_context: SSL.Context = field(factory=lambda: SSL.Context(SSL.TLS_CLIENT_METHOD))
    app_data: Any = field(factory=lambda: SimpleNamespace(factory=SimpleNamespace(wrappedFactory=None)))
    client: Any = None
    server: Any = None

    def shake(self, name: str | None = None) -> Handshake:
        self.client = SSL.Connection(self.client_context)
        self.client.set_connect_state()
        if name is not None:
            self.client.set_tlsext_host_name(name.encode())
        self.server = self.contexts.serverConnectionForTLS(None)  # type: ignore[arg-type]
        self.server.set_accept_state()
        self.server.set_app_data(self.app_data)
        for _ in range(4):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                with suppress(SSL.WantReadError):
                    one.do_handshake()
                with suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(65536))
        return self

    @property
    def served(self) -> list[int]:
        """The serial numbers of the certificates that the server sent."""
        return [each.serial_number for each in self.client.get_peer_cert_chain(as_cryptography=True)]


class Reactor(Clock):
    """A clock whose threads are done at once."""

    def getThreadPool(self) -> Reactor:
        return self

    def callInThreadWithCallback(self, done: Callable[[bool, Any], None], call: Callable[[], Any]) -> None:
        try:
            done(True, call())
        except Exception:
            done(False, Failure())

    def callFromThread(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)


def started(source: CertificateSource, clock: Clock | None = None, **options: Any) -> ReloadingContexts:
    contexts = ReloadingContexts(source, reactor=clock or Reactor(), **options)
    contexts.start()
    return contexts


def served(contexts: ReloadingContexts, name: str | None = None) -> int:
    return Handshake(contexts).shake(name).served[0]


def directory(path: Path, clock: Clock | None = None) -> ReloadingContexts:
    return started(CertificateDirectory(path), clock)


def test_the_name_a_client_asks_for_chooses_the_certificate(tmp_path: Path, root: Issued) -> None:
    default, exact, wild, unnamed = (
        root.issue("d", "default.example"),
        root.issue("e", "A.example", "b.example"),
        root.issue("w", "*.wild.example"),
        root.issue("by.file.example"),
    )
    put(tmp_path / "DEFAULT.pem", default.key_pem, default.pem)
    put(tmp_path / "a.pem", exact.key_pem, exact.pem)
    put(tmp_path / "more" / "w.pem", wild.pem, wild.key_pem)
    put(tmp_path / "by.file.example.pem", unnamed.key_pem, unnamed.pem)
    put(tmp_path / ".hidden.pem", b"-----BEGIN")
    put(tmp_path / ".git" / "x.pem", b"-----BEGIN")
    put(tmp_path / "notes.txt", b"-----BEGIN")
    contexts = directory(tmp_path)
    for name, expected in (
        (None, default),
        ("default.example", default),
        ("a.example", exact),
        ("A.EXAMPLE", exact),
        ("b.example", exact),
        ("any.wild.example", wild),
        ("by.file.example", unnamed),
        ("too.deep.wild.example", default),
        ("unknown.example", default),
        ("localhost", default),
    ):
        assert served(contexts, name) == expected.serial, name


def test_without_a_default_the_first_by_path_serves_unknown_names(tmp_path: Path, root: Issued) -> None:
    first, second = root.issue("1", "z.example"), root.issue("2", "a.example")
    put(tmp_path / "b.pem", second.key_pem, second.pem)
    put(tmp_path / "a.pem", first.key_pem, first.pem)
    assert served(directory(tmp_path), "unknown.example") == first.serial


def test_key_certificate_and_chain_may_be_in_different_files(tmp_path: Path, root: Issued) -> None:
    middle = root.issue("middle", authority=True)
    lower = middle.issue("lower", authority=True)
    namesake = issue("lower", authority=True)
    leaf = lower.issue("leaf", "leaf.example")
    put(tmp_path / "privkey.pem", leaf.key_pem)
    put(tmp_path / "cert.pem", leaf.pem)
    put(tmp_path / "a-namesake.pem", namesake.pem)
    put(tmp_path / "b-other-lower.pem", issue("x", authority=True).issue("lower", authority=True).pem)
    put(tmp_path / "chain.pem", root.pem, middle.pem, lower.pem)
    handshake = Handshake(directory(tmp_path)).shake("leaf.example")
    assert handshake.served == [leaf.serial, lower.serial, middle.serial]


def test_of_two_certificates_for_one_name_or_key_the_one_that_expires_later_is_served(
    tmp_path: Path, root: Issued
) -> None:
    old = root.issue("old", "a.example", days=5)
    renewed = root.issue("new", "a.example", days=50, key=old.key)
    other = root.issue("other", "a.example", "b.example", days=20)
    put(tmp_path / "a.pem", old.key_pem, renewed.pem, old.pem)
    put(tmp_path / "b.pem", other.key_pem, other.pem)
    contexts = directory(tmp_path)
    assert (served(contexts, "a.example"), served(contexts, "b.example")) == (renewed.serial, other.serial)


def test_a_change_is_served_when_two_checks_have_found_it(tmp_path: Path, root: Issued) -> None:
    clock = Reactor()
    old, new = root.issue("1", "a.example"), root.issue("2", "a.example")
    path = put(tmp_path / "a.pem", old.key_pem, old.pem)
    contexts = directory(tmp_path, clock)
    put(path, new.key_pem, new.pem)
    clock.advance(0.9)
    assert served(contexts, "a.example") == old.serial
    clock.advance(0.1)
    assert served(contexts, "a.example") == old.serial
    clock.advance(0.5)
    assert served(contexts, "a.example") == new.serial
    added = root.issue("3", "b.example")
    put(tmp_path / "b.pem", added.key_pem, added.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts, "b.example") == added.serial
    path.unlink()
    clock.pump([0.5, 0.5])
    assert served(contexts, "a.example") == added.serial


def test_unknown_names_from_peers_never_cause_a_read_from_disk(
    tmp_path: Path, root: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Reactor()
    pair = root.issue("1", "a.example")
    put(tmp_path / "a.pem", pair.key_pem, pair.pem)
    source = CertificateDirectory(tmp_path)
    contexts = started(source, clock)
    looks: list[object] = []
    stamp = source.stamp

    def look() -> object:
        looks.append(stamp())
        return looks[-1]

    monkeypatch.setattr(source, "stamp", look)
    monkeypatch.setattr(source, "load", lambda: pytest.fail("read again"))
    for number in range(50):
        assert served(contexts, f"unknown-{number}.example") == pair.serial
    assert not looks
    clock.pump([0.1] * 50)
    assert len(looks) <= 10


def test_an_invalid_new_file_leaves_the_old_certificate_in_use_and_is_reported_once(
    tmp_path: Path, root: Issued, warnings: list[str]
) -> None:
    clock = Reactor()
    a, b = root.issue("1", "a.example"), root.issue("2", "b.example")
    a_path = put(tmp_path / "a.pem", a.key_pem, a.pem)
    b_path = put(tmp_path / "b.pem", b.key_pem, b.pem)
    contexts = directory(tmp_path, clock)
    put(a_path, a.key_pem, a.pem[:-20])
    for _ in range(3):
        clock.pump([0.5, 0.5])
        assert served(contexts, "a.example") == a.serial
    assert warnings == [f"TLS keeps the old certificate: {a_path}: block 2 (line 6) has no end"]
    renewed = root.issue("2", "b.example")
    put(b_path, renewed.key_pem, renewed.pem)
    clock.pump([0.5, 0.5])
    assert (served(contexts, "a.example"), served(contexts, "b.example")) == (a.serial, renewed.serial)
    mended = root.issue("1", "a.example")
    put(a_path, mended.key_pem, mended.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts, "a.example") == mended.serial
    assert len(warnings) == 1


@pytest.mark.parametrize("first", ["key.pem", "cert.pem"])
def test_a_half_finished_renewal_serves_the_old_pair(
    tmp_path: Path, root: Issued, warnings: list[str], first: str
) -> None:
    clock = Reactor()
    old, new = root.issue("1", "a.example"), root.issue("2", "a.example")
    put(tmp_path / "key.pem", old.key_pem)
    put(tmp_path / "cert.pem", old.pem)
    contexts = directory(tmp_path, clock)
    halves = {"key.pem": new.key_pem, "cert.pem": new.pem}
    put(tmp_path / first, halves.pop(first))
    clock.pump([0.5, 0.5])
    assert served(contexts, "a.example") == old.serial
    for name, block in halves.items():
        put(tmp_path / name, block)
    clock.pump([0.5, 0.5])
    assert served(contexts, "a.example") == new.serial
    assert [line.partition(": ")[2] for line in warnings] == [
        f"{tmp_path / 'key.pem'}: no certificate in {tmp_path} belongs to the private key in it"
    ]


def test_missing_or_rejected_files_leave_the_old_certificate_in_use(
    tmp_path: Path, root: Issued, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Reactor()
    old = root.issue("1", "a.example")
    folder = tmp_path / "tls"
    path = put(folder / "a.pem", old.key_pem, old.pem)
    contexts = directory(folder, clock)
    path.rename(tmp_path / "aside")
    clock.pump([0.5, 0.5])
    assert served(contexts) == old.serial
    folder.rmdir()
    for _ in range(2):
        clock.pump([0.5, 0.5])
        assert served(contexts) == old.serial
    monkeypatch.setattr(SSL.Context, "use_privatekey", _refuse)
    new = root.issue("2", "a.example")
    put(path, new.key_pem, new.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts) == old.serial
    assert [line.partition(": ")[2] for line in warnings] == [
        f"{folder}: no *.pem file in it holds a private key",
        f"No such file or directory: '{folder}'",
        f"{path}: OpenSSL rejects this key and certificate",
    ]


@pytest.mark.parametrize("bad", [b"", b"\n", b"-----BEGIN CERTIFICATE-----"])
@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "chain.pem"])
def test_what_was_served_stays_in_use_while_one_of_its_files_holds_nothing(
    tmp_path: Path, root: Issued, warnings: list[str], name: str, bad: bytes
) -> None:
    clock = Reactor()
    middle = root.issue("middle", authority=True)
    pair, other = middle.issue("1", "a.example"), root.issue("2", "b.example")
    for folder in ("directory", "files"):
        put(tmp_path / folder / "key.pem", pair.key_pem)
        put(tmp_path / folder / "cert.pem", pair.pem)
        put(tmp_path / folder / "chain.pem", middle.pem)
    put(tmp_path / "directory" / "z.pem", other.key_pem, other.pem)
    files = tmp_path / "files"
    each = [
        directory(tmp_path / "directory", clock),
        started(CertificateFiles(files / "key.pem", files / "cert.pem", files / "chain.pem"), clock),
    ]
    for folder in ("directory", "files"):
        put(tmp_path / folder / name, bad)
    clock.pump([0.5] * 6)
    for contexts in each:
        for asked in ("a.example", "unknown.example", None):
            assert Handshake(contexts).shake(asked).served == [pair.serial, middle.serial]
    assert len(warnings) == 2
    assert all(f"{name}: " in line for line in warnings)


def test_a_key_that_moved_to_another_file_leaves_no_warning(
    tmp_path: Path, root: Issued, warnings: list[str]
) -> None:
    clock = Reactor()
    pair = root.issue("1", "a.example")
    put(tmp_path / "a.pem", pair.key_pem, pair.pem)
    contexts = directory(tmp_path, clock)
    put(tmp_path / "b.pem", pair.key_pem)
    put(tmp_path / "a.pem", pair.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts, "a.example") == pair.serial
    assert not warnings


@pytest.mark.parametrize("bad", [b"", b"nothing here", b"-----BEGIN", None])
def test_a_client_ca_that_cannot_be_read_stays_in_use_and_does_not_hinder_renewals(
    tmp_path: Path, root: Issued, warnings: list[str], bad: bytes | None
) -> None:
    clock = Reactor()
    old, new = root.issue("1", "a.example"), root.issue("2", "a.example")
    path = put(tmp_path / "tls" / "a.pem", old.key_pem, old.pem)
    ca = put(tmp_path / "ca.pem", root.pem)
    contexts = started(CertificateDirectory(tmp_path / "tls"), clock, client_ca=ca)
    put(path, new.key_pem, new.pem)
    ca.unlink()
    if bad is not None:
        ca.write_bytes(bad)
    clock.pump([0.5] * 6)
    assert len(warnings) == 1
    assert str(ca) in warnings[0]
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    shown = root.issue("client")
    client.use_certificate(shown.certificate)
    client.use_privatekey(shown.key)
    assert Handshake(contexts, client).shake().served[0] == new.serial
    with pytest.raises(SSL.Error):
        Handshake(contexts).shake()


def test_a_file_is_tried_again_when_the_system_refused_to_read_it(
    tmp_path: Path, root: Issued, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Reactor()
    old, new = root.issue("1", "a.example"), root.issue("2", "a.example")
    path = put(tmp_path / "a.pem", old.key_pem, old.pem)
    contexts = directory(tmp_path, clock)
    put(path, new.key_pem, new.pem)

    def refuse(*arguments: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        clock.pump([0.5] * 4)
    assert served(contexts) == old.serial
    assert warnings == [f"TLS keeps the old certificate: {path}: cannot be read: Too many open files"]
    clock.advance(0.5)
    assert served(contexts) == new.serial


def test_a_subfolder_that_cannot_be_listed_keeps_its_certificates(
    tmp_path: Path, root: Issued, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Reactor()
    old, new, inner = root.issue("1", "a.example"), root.issue("2", "a.example"), root.issue("3", "b.example")
    path = put(tmp_path / "a.pem", old.key_pem, old.pem)
    put(tmp_path / "sub" / "b.pem", inner.key_pem, inner.pem)
    contexts = directory(tmp_path, clock)
    scan = os.scandir

    def refuse(folder: str) -> Any:
        if folder == str(tmp_path / "sub"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    put(path, new.key_pem, new.pem)
    clock.pump([0.5] * 4)
    assert (served(contexts, "a.example"), served(contexts, "b.example")) == (new.serial, inner.serial)
    assert warnings == [f"TLS keeps the old certificate: {tmp_path / 'sub'}: cannot be read: Permission denied"]


def only(*ciphers: str, version: int = SSL.TLS1_2_VERSION) -> SSL.Context:
    """A client that offers these ciphers."""
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client.set_max_proto_version(version)
    client.set_cipher_list(":".join(ciphers).encode())
    return client


@pytest.mark.parametrize("layout", ["one file", "two files", "ssl:", "key and certificate apart"])
def test_rsa_and_ecdsa_certificates_for_one_name_are_both_served_by_what_the_client_offers(
    tmp_path: Path, root: Issued, layout: str
) -> None:
    middle = root.issue("middle", authority=True)
    rsa = middle.issue("rsa", "a.example", key=generate_private_key(65537, 2048))
    ecdsa = root.issue("ecdsa", "a.example")
    other = root.issue("other", "z.example")
    folder = tmp_path / "tls"
    source: CertificateSource = CertificateDirectory(folder)
    if layout == "one file":
        put(folder / "DEFAULT.pem", rsa.key_pem, ecdsa.key_pem, ecdsa.pem, rsa.pem, middle.pem)
    elif layout == "two files":
        put(folder / "a-rsa.pem", rsa.key_pem, rsa.pem, middle.pem)
        put(folder / "b-ecdsa.pem", ecdsa.key_pem, ecdsa.pem)
    elif layout == "ssl:":
        path = put(folder / "both.pem", rsa.key_pem, rsa.pem, ecdsa.key_pem, ecdsa.pem, middle.pem)
        source = CertificateFiles(path, path)
    else:
        put(folder / "0.pem", ecdsa.key_pem, rsa.key_pem)
        put(folder / "1.pem", ecdsa.pem)
        put(folder / "2.pem", rsa.pem, middle.pem)
    if layout != "ssl:":
        put(folder / "z.pem", other.key_pem, other.pem)
    contexts = started(source)
    for name in ("a.example", "unknown.example", None):
        for client, expected in (
            (only("ECDHE-RSA-AES128-GCM-SHA256"), rsa),
            (only("ECDHE-ECDSA-AES128-GCM-SHA256"), ecdsa),
        ):
            store = client.get_cert_store()
            assert store is not None
            store.add_cert(X509.from_cryptography(root.certificate))
            client.set_verify(SSL.VERIFY_PEER)
            assert Handshake(contexts, client).shake(name).served[0] == expected.serial, (name, expected)
        assert Handshake(contexts, only("ALL", version=SSL.TLS1_3_VERSION)).shake(name).served[0] in {
            rsa.serial,
            ecdsa.serial,
        }


def test_of_several_certificates_for_a_name_the_latest_of_each_kind_is_served(tmp_path: Path, root: Issued) -> None:
    key = generate_private_key(65537, 2048)
    each = {
        f"{kind}-{days}": root.issue(kind, "a.example", days=days, key=key if kind == "rsa" else None)
        for kind in ("rsa", "ecdsa")
        for days in (5, 50, 20)
    }
    for name, pair in each.items():
        put(tmp_path / f"{name}.pem", pair.key_pem, pair.pem)
    contexts = directory(tmp_path)
    for kind in ("rsa", "ecdsa"):
        client = only(f"ECDHE-{kind.upper()}-AES128-GCM-SHA256")
        assert Handshake(contexts, client).shake("a.example").served[0] == each[f"{kind}-50"].serial


@pytest_twisted.ensureDeferred
async def test_visitors_are_greeted_with_the_old_certificate_while_the_new_one_is_read(
    tmp_path: Path, good: Path, root: Issued, listen: Any, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    talkers = Talkers()
    port = await listen(tls_endpoint(reactor, parse_endpoint(described("tls", good))), talkers)
    visitor = Visitor(port, put(tmp_path / "r", root.pem))
    before, _ = await visitor()
    reading, read_on = threading.Event(), threading.Event()
    load = CertificateDirectory.load

    def slow(self: CertificateDirectory) -> Any:
        reading.set()
        assert read_on.wait(20)
        return load(self)

    monkeypatch.setattr(CertificateDirectory, "load", slow)
    renewed = root.issue("g", "good.example")
    put(good, renewed.key_pem, renewed.pem)
    await until(reading.is_set)
    assert [serial for serial, _ in [await visitor(), await visitor()]] == [before, before]
    read_on.set()
    await until(lambda: "TLS certificates have been reloaded" in log_lines)
    after, _ = await visitor()
    assert after == renewed.serial


def test_reading_again_does_only_what_changed(tmp_path: Path, root: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Reactor()
    pairs = [root.issue(str(number), f"h{number}.example") for number in range(20)]
    for number, pair in enumerate(pairs):
        put(tmp_path / f"{number}.pem", pair.key_pem, pair.pem)
    contexts = directory(tmp_path, clock)
    made: list[SSL.Context] = []
    use = SSL.Context.use_privatekey

    def count(self: SSL.Context, key: Any) -> None:
        made.append(self)
        use(self, key)

    monkeypatch.setattr(SSL.Context, "use_privatekey", count)
    new = root.issue("7", "h7.example")
    put(tmp_path / "7.pem", new.key_pem, new.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts, "h7.example") == new.serial
    assert len(made) == 1


def _refuse(*arguments: object) -> None:
    raise SSL.Error([])


def test_a_dangling_link_leaves_the_old_certificate_in_use(tmp_path: Path, root: Issued, warnings: list[str]) -> None:
    clock = Reactor()
    old = root.issue("1", "a.example")
    put(tmp_path / "a.pem", old.key_pem, old.pem)
    contexts = directory(tmp_path, clock)
    (tmp_path / "a.pem").unlink()
    for target in ("nowhere", "elsewhere"):
        (tmp_path / "a.pem").unlink(missing_ok=True)
        (tmp_path / "a.pem").symlink_to(target)
        clock.pump([0.5, 0.5])
        assert served(contexts) == old.serial
    assert len(warnings) == 1


@pytest.mark.parametrize("inside", ["", "b.txt", "b.pem"])
def test_a_folder_in_place_of_a_file_leaves_the_old_certificate_in_use(
    tmp_path: Path, root: Issued, warnings: list[str], inside: str
) -> None:
    clock = Reactor()
    old, other = (root.issue(name, "a.example") for name in "12")
    path = put(tmp_path / "a.pem", old.key_pem, old.pem)
    put(tmp_path / "z.pem", other.key_pem, other.pem)
    contexts = directory(tmp_path, clock)
    before = served(contexts)
    path.unlink()
    path.mkdir()
    if inside:
        put(path / inside, other.key_pem, other.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts) == before
    assert warnings == [f"TLS keeps the old certificate: {path}: is not a plain file"]


def test_the_same_fault_in_another_version_of_a_file_is_not_reported_again(
    tmp_path: Path, root: Issued, warnings: list[str]
) -> None:
    clock = Reactor()
    pair = root.issue("1", "a.example")
    path = put(tmp_path / "a.pem", pair.key_pem, pair.pem)
    contexts = directory(tmp_path, clock)
    for length in (9, 10, 11):
        put(path, pair.key_pem, pair.pem[:-length])
        clock.pump([0.5, 0.5])
        assert served(contexts) == pair.serial
    assert len(warnings) == 1


def test_at_the_start_one_invalid_file_among_good_ones_is_an_error(tmp_path: Path, good: Path) -> None:
    broken = put(good.parent / "x.pem", b"-----BEGIN")
    assert bad(f"tls:{good.parent}:port=1") == f"{broken}: block 1 (line 1) has no end"


def test_pem_blocks_of_other_kinds_are_ignored(tmp_path: Path, root: Issued) -> None:
    pair = root.issue("1")
    other = b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n"
    path = put(tmp_path / "a.pem", other, pair.key_pem, other, pair.pem)
    assert served(started(CertificateFiles(path, path))) == pair.serial


def test_single_files_reload_too(tmp_path: Path, root: Issued, warnings: list[str]) -> None:
    clock = Reactor()
    middle = root.issue("middle", authority=True)
    old, new = middle.issue("1", "a.example"), middle.issue("2", "a.example")
    key, cert, chain = (tmp_path / name for name in ("key.pem", "cert.pem", "chain.pem"))
    put(key, old.key_pem)
    put(cert, old.pem)
    put(chain, middle.pem)
    contexts = started(CertificateFiles(key, cert, chain), clock)
    assert Handshake(contexts).shake("any.example").served == [old.serial, middle.serial]
    put(cert, new.pem)
    clock.pump([0.5, 0.5])
    assert served(contexts) == old.serial
    put(key, new.key_pem)
    clock.pump([0.5, 0.5])
    assert served(contexts) == new.serial
    chain.unlink()
    clock.pump([0.5, 0.5])
    assert Handshake(contexts).shake().served == [new.serial, middle.serial]
    assert len(warnings) == 2


def test_versions_before_tls_1_2_are_refused(tmp_path: Path, root: Issued) -> None:
    pair = root.issue("1")
    contexts = started(CertificateFiles(path := put(tmp_path / "a.pem", pair.key_pem, pair.pem), path))
    for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_max_proto_version(version)
        handshake = Handshake(contexts, client).shake()
        assert handshake.server.get_protocol_version_name() == handshake.client.get_protocol_version_name()
    old = SSL.Context(SSL.TLS_CLIENT_METHOD)
    old.set_max_proto_version(SSL.TLS1_1_VERSION)
    old.set_cipher_list(b"ALL:@SECLEVEL=0")
    with pytest.raises(SSL.Error):
        Handshake(contexts, old).shake()


def test_alpn_is_negotiated_only_for_a_factory_that_names_protocols(tmp_path: Path, root: Issued) -> None:
    @implementer(IProtocolNegotiationFactory)
    class Negotiating(Factory):
        def acceptableProtocols(self) -> list[bytes]:
            return [b"h2", b"http/1.1"]

    pair = root.issue("1")
    contexts = started(CertificateFiles(path := put(tmp_path / "a.pem", pair.key_pem, pair.pem), path))
    for factory, offered, chosen in (
        (Negotiating(), [b"http/1.1", b"h2"], b"h2"),
        (Negotiating(), [b"http/1.1"], b"http/1.1"),
        (Negotiating(), [b"spdy"], b""),
        (Factory(), [b"h2"], b""),
    ):
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_alpn_protos(offered)
        app_data = SimpleNamespace(factory=SimpleNamespace(wrappedFactory=factory))
        handshake = Handshake(contexts, client, app_data).shake("x.example")
        assert handshake.client.get_alpn_proto_negotiated() == chosen
        told = facts(SimpleNamespace(getHandle=lambda handshake=handshake: handshake.server))
        assert told is not None
        assert (told.sni, told.alpn) == ("x.example", chosen.decode() or None)


def test_there_are_no_facts_before_the_handshake_or_without_tls(tmp_path: Path, root: Issued) -> None:
    pair = root.issue("1")
    contexts = started(CertificateFiles(path := put(tmp_path / "a.pem", pair.key_pem, pair.pem), path))
    connection = contexts.serverConnectionForTLS(None)  # type: ignore[arg-type]
    assert facts(SimpleNamespace(getHandle=lambda: connection)) is None
    assert facts(SimpleNamespace(getHandle=lambda: None)) is None
    assert facts(StringTransport()) is None


def test_names_from_the_peer_are_escaped(tmp_path: Path, root: Issued) -> None:
    pair = root.issue("1")
    contexts = started(
        CertificateFiles(path := put(tmp_path / "a.pem", pair.key_pem, pair.pem), path),
        client_ca=put(tmp_path / "ca.pem", root.pem),
    )
    peer = root.issue("evil\r\nname")
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client.use_certificate(peer.certificate)
    client.use_privatekey(peer.key)
    handshake = Handshake(contexts, client).shake("a\x1b[2J\xff")
    told = facts(SimpleNamespace(getHandle=lambda: handshake.server))
    assert told is not None
    assert told.sni is not None
    assert told.sni.isprintable()
    assert told.certificate == r"evil\r\nname"


def bad(description: str, client_ca: str | None = None) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        tls_endpoint(reactor, parse_endpoint(description), client_ca=client_ca)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def good(tmp_path: Path, root: Issued) -> Path:
    pair = root.issue("g", "good.example")
    return put(tmp_path / "good" / "good.pem", pair.key_pem, pair.pem)


@pytest.mark.parametrize(
    ("description", "complaint"),
    [
        ("tcp:8088", "is not a tls: or ssl: endpoint"),
        ("tls:", "needs the folder"),
        ("tls:port=8443", "needs the folder"),
        ("tls:{dir}:port=70000", "the port must be"),
        ("tls:{dir}:port=x", "the port must be"),
        ("tls:{dir}:1:2:3:4:5", "too many arguments: '5'"),
        ("tls:{dir}:1:port=2", "port is given twice, '1' and '2'"),
        ("tls:{dir}:1:colour=red", "unknown option 'colour'; allowed are path, port, backlog, interface"),
        ("tls:{dir}:1:backlog=-1", "the backlog must be"),
        ("tls:{dir}/none:port=1", "{dir}/none"),
        ("tls:{dir}/good.pem:port=1", "{dir}/good.pem"),
        ("ssl:privateKey={dir}/good.pem", "the port must be"),
        ("ssl:1:privateKey={dir}/none.pem", "{dir}/none.pem"),
        ("ssl:1:privateKey={dir}/good.pem:certKey={dir}/none.pem", "{dir}/none.pem"),
        ("ssl:1:privateKey={dir}/good.pem:extraCertChain={dir}/none.pem", "{dir}/none.pem"),
        ("ssl:1:privateKey={dir}/good.pem:sslmethod=TLSv1_2_METHOD", "sslmethod cannot be chosen: 'TLSv1_2_METHOD'"),
        ("ssl:1:privateKey={dir}/good.pem:dhParameters=dh.pem", "dhParameters cannot be chosen: 'dh.pem'"),
        ("ssl:1", "server.pem"),
        ("ssl:1\\", "backslash"),
    ],
)
def test_a_wrong_endpoint_is_one_line_with_the_reason(
    good: Path, description: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(good.parent)
    assert complaint.format(dir=good.parent) in bad(description.format(dir=good.parent))


def test_an_invalid_file_is_one_line_with_its_name(tmp_path: Path, good: Path, root: Issued) -> None:
    pair, other = root.issue("1", "a.example"), root.issue("2", "a.example")
    locked = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    dsa_key = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    lines = pair.pem.splitlines(keepends=True)
    cases: list[tuple[bytes, str]] = [
        (b"", "there is no private key in it"),
        (pair.pem, "there is no private key in it"),
        (pair.key_pem, "there is no certificate in it"),
        (pair.key_pem + other.pem, "does not belong to the certificate"),
        (locked + pair.pem, "needs a passphrase"),
        (dsa_key + pair.pem, "not for TLS; use an RSA, ECDSA or EdDSA key"),
        (pair.key_pem + pair.pem[:-9], "has no end"),
        (pair.key_pem + b"".join([lines[0], *lines[2:]]), "is not a valid certificate"),
        (pair.key_pem.replace(b"\nM", b"\nA") + pair.pem, "a private key in it is not valid"),
    ]
    for content, complaint in cases:
        path = put(tmp_path / "bad" / "x.pem", content)
        text = bad(f"ssl:1:privateKey={path}")
        assert str(path) in text
        assert complaint in text
        text = bad(f"tls:{path.parent}:port=1")
        assert str(path.parent) in text
    empty = put(tmp_path / "empty.pem")
    for client_ca, complaint in ((empty, "there is no certificate in it"), (tmp_path / "none", "none")):
        assert complaint in bad(f"ssl:1:privateKey={good}", client_ca=str(client_ca))
    assert "there is no certificate in it" in bad(f"ssl:1:privateKey={good}:extraCertChain={empty}")


def test_certificates_are_read_from_a_file_with_a_key_that_is_not_needed(tmp_path: Path, root: Issued) -> None:
    locked = root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert read_certificates(put(tmp_path / "x.pem", locked, root.pem)) == (root.certificate,)


@implementer(IHandshakeListener)
class Talker(Protocol):
    """Greets when the handshake is complete, with what is known of the ends."""

    facts: TlsFacts | None = None

    def __init__(self, gone: Callable[[Failure], None]) -> None:
        self.gone = gone

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        self.facts = facts(transport)
        transport.write(f"hello {transport.getPeer().host} via {getattr(transport, 'via', None)}".encode())
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone(reason)


class Talkers(Factory):
    noisy = False

    def __init__(self) -> None:
        self.built: list[Talker] = []
        self.ends: list[Deferred[Failure]] = []

    def buildProtocol(self, addr: object) -> Talker:
        end: Deferred[Failure] = Deferred()
        # A Failure given to callback() would make it an errback, and an unhandled one.
        self.built.append(Talker(lambda reason: end.callback(reason.value)))  # type: ignore[arg-type]
        self.ends.append(end)
        return self.built[-1]


@define
class Visitor:
    """A client of the standard library's ssl, in a thread."""

    port: int
    ca: Path
    name: str = "good.example"
    certificate: Path | None = None
    header: bytes = b""

    def visit(self) -> tuple[int, bytes]:
        """The serial number of the server's certificate, and what it said."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain:
            plain.sendall(self.header)
            with context.wrap_socket(plain, server_hostname=self.name) as tls:
                der = tls.getpeercert(binary_form=True)
                assert der is not None
                said = b"".join(iter(lambda: tls.recv(4096), b""))
        return x509.load_der_x509_certificate(der).serial_number, said

    async def __call__(self) -> tuple[int, bytes]:
        visit: Deferred[tuple[int, bytes]] = deferToThread(self.visit)
        visit.addTimeout(20, reactor)
        return await visit


@pytest_twisted.async_yield_fixture
async def listen() -> Any:
    """Listens on an endpoint until the end of the test."""
    ports: list[Any] = []

    async def start(endpoint: Any, factory: Any) -> int:
        ports.append(await endpoint.listen(factory))
        number: int = ports[-1].getHost().port
        return number

    yield start
    for port in ports:
        await port.stopListening()


def described(kind: str, good: Path) -> str:
    if kind == "tls":
        return f"tls:{quoteStringArgument(str(good.parent))}:port=0:interface=127.0.0.1"
    return f"ssl:0:privateKey={quoteStringArgument(str(good))}:interface=127.0.0.1:backlog=10"


@pytest.mark.parametrize("kind", ["tls", "ssl"])
@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_served_soon_and_without_a_visit(
    kind: str, tmp_path: Path, good: Path, root: Issued, listen: Any, log_lines: list[str]
) -> None:
    talkers = Talkers()
    port = await listen(tls_endpoint(reactor, parse_endpoint(described(kind, good))), talkers)
    visitor = Visitor(port, put(tmp_path / "r", root.pem))
    before, said = await visitor()
    assert said == b"hello 127.0.0.1 via None"
    renewed = root.issue("g", "good.example")
    put(good.with_suffix(".new"), renewed.key_pem, renewed.pem).rename(good)
    await until(lambda: "TLS certificates have been reloaded" in log_lines)
    after, _ = await visitor()
    assert before != after == renewed.serial
    first = talkers.built[0].facts
    assert first is not None
    assert (first.version, first.sni, first.alpn, first.certificate) == ("TLSv1.3", "good.example", None, None)
    assert first.cipher.startswith("TLS_")


@pytest.mark.parametrize("kind", ["tls", "ssl"])
@pytest_twisted.ensureDeferred
async def test_with_a_client_ca_only_clients_with_its_certificates_are_accepted(
    kind: str, tmp_path: Path, good: Path, root: Issued, listen: Any
) -> None:
    talkers = Talkers()
    authority = issue("clients", authority=True)
    client_ca = put(tmp_path / "clients.pem", authority.pem)
    endpoint = tls_endpoint(reactor, parse_endpoint(described(kind, good)), client_ca=str(client_ca))
    visitor = Visitor(await listen(endpoint, talkers), put(tmp_path / "root", root.pem))
    known, unnamed, stranger = authority.issue("alice"), authority.issue(None, "host.example"), root.issue("mallory")
    for pair, name in ((known, "alice"), (unnamed, "host.example")):
        visitor.certificate = put(tmp_path / "client", pair.key_pem, pair.pem)
        _, said = await visitor()
        assert said.startswith(b"hello")
        told = talkers.built[-1].facts
        assert told is not None
        assert told.certificate == name
    for refused in (None, put(tmp_path / "client", stranger.key_pem, stranger.pem)):
        visitor.certificate = refused
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await visitor()
        end = talkers.ends[-1].addTimeout(10, reactor)
        assert isinstance(await end, SSL.Error)
        assert talkers.built[-1].facts is None


@pytest_twisted.ensureDeferred
async def test_a_client_that_never_shakes_hands_does_not_delay_others_and_can_be_aborted(
    tmp_path: Path, good: Path, root: Issued, listen: Any
) -> None:
    talkers = Talkers()
    port = await listen(tls_endpoint(reactor, parse_endpoint(described("tls", good))), talkers)
    with socket.create_connection(("127.0.0.1", port)):
        _, said = await Visitor(port, put(tmp_path / "root", root.pem))()
        assert said.startswith(b"hello")
        silent = next(talker for talker in talkers.built if talker.facts is None)
        transport: Any = silent.transport
        transport.abortConnection()
        end = talkers.ends[talkers.built.index(silent)].addTimeout(10, reactor)
        await end
    assert facts(transport) is None


@pytest_twisted.ensureDeferred
async def test_a_proxy_header_is_read_below_tls(tmp_path: Path, good: Path, root: Issued, listen: Any) -> None:
    class Proxying:
        """A reactor that wraps what listens on it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

        def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
            assert isinstance(factory, TLSMemoryBIOFactory)
            outer = ProxiedFactory(factory, trusted=lambda host: host == "127.0.0.1", refused=refusals.append)
            real: Any = reactor
            return real.listenTCP(port, outer, backlog, interface)

    refusals: list[str] = []
    talkers = Talkers()
    port = await listen(tls_endpoint(Proxying(), parse_endpoint(described("tls", good))), talkers)
    header = encode_v1(("192.0.2.1", 40112), ("198.51.100.2", 443))
    visitor = Visitor(port, put(tmp_path / "root", root.pem), header=header)
    _, said = await visitor()
    assert said.startswith(b"hello 192.0.2.1 via IPv4Address(")
    transport: Any = talkers.built[0].transport
    assert transport.getHost() == IPv4Address("TCP", "198.51.100.2", 443)
    assert transport.via.host == "127.0.0.1"
    visitor.header = b""
    with pytest.raises((ssl.SSLError, OSError)):
        await visitor()
    assert refusals == ["proxy-header"]
    assert len(talkers.built) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_without_read_permission_is_named(good: Path) -> None:
    good.chmod(0)
    assert str(good) in bad(f"ssl:1:privateKey={good}")
