"""Peers to be greeted by: blocking ones, as in a socket tutorial, each in a thread and as odd as the test wants."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Says = Callable[[socket.socket], None]
Answers = Callable[[socket.socket, bytes, Any], None]


@define
class Peers:
    """Starts peers; each method gives the target that `greet` is to be given."""

    over: Event = field(factory=Event)
    sockets: list[socket.socket] = field(factory=list)
    threads: list[Thread] = field(factory=list)

    def stream(self, says: Says, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> str:
        """A peer that accepts, one at a time, and hands the connection to ``says``, then closes it."""
        if path is None:
            listener = socket.create_server(("127.0.0.1", 0))
            target = f"127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            target = f"unix:{path}"
        self._start(listener, lambda: self._accept(listener, says, tls))
        return f"tls:{target}" if tls else target

    def datagram(self, answers: Answers, *, path: Path | None = None, family: int = socket.AF_INET) -> str:
        """A peer that hands each request to ``answers``."""
        if path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(str(path))
            target = f"unixgram:{path}"
        else:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            host, port, *_ = sock.getsockname()
            target = f"udp:[{host}]:{port}" if family == socket.AF_INET6 else f"udp:{host}:{port}"
        self._start(sock, lambda: self._receive(sock, answers))
        return target

    def hold(self, *_: object) -> None:
        """Do nothing until the test is over."""
        self.over.wait(30)

    def stop(self) -> None:
        """Stop them all."""
        self.over.set()
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        for sock in self.sockets:
            sock.close()

    def _start(self, sock: socket.socket, work: Callable[[], None]) -> None:
        sock.settimeout(0.2)
        self.sockets.append(sock)
        thread = Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, says: Says, tls: ssl.SSLContext | None) -> None:
        while not self.over.is_set():
            try:
                bare, _ = listener.accept()
            except OSError:
                continue
            bare.settimeout(10)
            with bare, suppress(OSError):
                if tls is None:
                    says(bare)
                    continue
                with tls.wrap_socket(bare, server_side=True) as connection:
                    says(connection)

    def _receive(self, sock: socket.socket, answers: Answers) -> None:
        while not self.over.is_set():
            with suppress(OSError):
                data, sender = sock.recvfrom(65535)
                answers(sock, data, sender)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """The peers of one test."""
    started = Peers()
    yield started
    started.stop()


@pytest.fixture
def reset() -> Says:
    """Close with a RST."""

    def close(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return close


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@frozen
class Papers:
    """Certificates in PEM files, by what is right or wrong with them; `server` makes a context of one."""

    folder: Path

    def path(self, name: str) -> str:
        """The file of this name."""
        return str(self.folder / f"{name}.pem")

    def server(self, name: str, *, ask_client: bool = False) -> ssl.SSLContext:
        """A server's context with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(name))
        if ask_client:
            context.load_verify_locations(self.path("ca"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """An authority and certificates it signed: good, expired, for another name, nameless; and a self-signed one."""
    folder = tmp_path_factory.mktemp("papers")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("the test authority", ca_key, "the test authority", ca_key, authority=True)
    (folder / "ca.pem").write_bytes(_pem(ca))
    here: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaves: list[tuple[str, list[x509.GeneralName], int]] = [
        ("good", here, 1),
        ("expired", here, -1),
        ("elsewhere", [x509.DNSName("elsewhere.example")], 1),
        ("mailbox", [x509.RFC822Name("a@example.org")], 1),
        ("nameless", [], 1),
    ]
    for name, names, days in leaves:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, "the test authority", ca_key, names=names, days=days)
        (folder / f"{name}.pem").write_bytes(_pem(certificate) + _key(key))
        (folder / f"{name}.crt.pem").write_bytes(_pem(certificate))
        (folder / f"{name}.key.pem").write_bytes(_key(key))
    own = ec.generate_private_key(ec.SECP256R1())
    (folder / "self.pem").write_bytes(_pem(_certificate("self", own, "self", own, names=here)) + _key(own))
    secret = serialization.BestAvailableEncryption(b"secret")
    (folder / "locked.pem").write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    )
    (folder / "empty.pem").write_bytes(b"nothing here\n")
    return Papers(folder)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: list[x509.GeneralName] | None = None,
    days: int = 1,
    authority: bool = False,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * day)
        .not_valid_after(now + days * day)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
