"""Certificates for tests; they pass strict verification (RFC 5280), which is Python's default from 3.13 on."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Extension = tuple[x509.ExtensionType, bool]
"""An extension of a certificate, and whether it is critical."""


@frozen
class Issued:
    """A certificate that was issued, with its private key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey | RSAPrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key alone."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def both_pem(self) -> bytes:
        """The private key and the certificate, as a server's file holds them."""
        return self.key_pem + self.pem

    @property
    def serial(self) -> int:
        """The serial number."""
        return self.certificate.serial_number

    def locked_key_pem(self, password: bytes) -> bytes:
        """The private key, encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))

    def issue(
        self,
        common_name: str | None = None,
        *names: str | x509.GeneralName,
        authority: bool = False,
        starts: float = -1,
        days: float = 30,
        key: EllipticCurvePrivateKey | RSAPrivateKey | None = None,
        extensions: Sequence[Extension] = (),
    ) -> Issued:
        """A certificate that this one signs."""
        return issue(
            common_name,
            *names,
            authority=authority,
            starts=starts,
            days=days,
            key=key,
            extensions=extensions,
            issuer=self,
        )


def issue(
    common_name: str | None = None,
    *names: str | x509.GeneralName,
    authority: bool = False,
    starts: float = -1,
    days: float = 30,
    key: EllipticCurvePrivateKey | RSAPrivateKey | None = None,
    extensions: Sequence[Extension] = (),
    issuer: Issued | None = None,
) -> Issued:
    """A certificate for the subject ``common_name`` and the DNS (or other) ``names``; without ``issuer`` self-signed.

    It is valid from ``starts`` to ``days``, both in days from now. An extension replaces the usual one of its kind.
    """
    key = key or generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=starts))
        .not_valid_after(now + dt.timedelta(days=days))
    )
    public_key = issuer.certificate.public_key() if issuer else key.public_key()
    assert isinstance(public_key, EllipticCurvePublicKey)
    usual: list[Extension] = [
        (x509.BasicConstraints(ca=authority, path_length=None), True),
        (_key_usage(authority), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), False),
    ]
    if names:
        # RFC 5280, 4.2.1.6: critical where the subject is empty.
        alternative = x509.SubjectAlternativeName([x509.DNSName(n) if isinstance(n, str) else n for n in names])
        usual.append((alternative, not common_name))
    for extension, critical in {each.oid: (each, critical) for each, critical in (*usual, *extensions)}.values():
        builder = builder.add_extension(extension, critical=critical)
    return Issued(builder.sign(issuer.key if issuer else key, SHA256()), key)


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@frozen
class Papers:
    """Certificates in PEM files, each named after what is right or wrong with it."""

    folder: Path

    def path(self, name: str) -> str:
        """The file of this name."""
        return str(self.folder / f"{name}.pem")

    def server(self, name: str, *, ask_client: bool = False) -> ssl.SSLContext:
        """The TLS context of a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(name))
        if ask_client:
            context.load_verify_locations(self.path("ca"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """An authority, certificates that it signed, one that signed itself, and files that cannot be used."""
    folder = tmp_path_factory.mktemp("papers")
    here = ("localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    authority = issue("the test authority", authority=True)
    own = issue("self", *here)
    leaves = {
        "good": authority.issue("good", *here),
        "expired": authority.issue("expired", *here, starts=-3, days=-1),
        "elsewhere": authority.issue("elsewhere", "elsewhere.example"),
        "mailbox": authority.issue("mailbox", x509.RFC822Name("a@example.org")),
        "nameless": authority.issue("nameless"),
        "self": own,
        # Trusted as an authority, so that its dates are all that is wrong.
        "early": issue("early", authority=True, starts=1, days=2),
    }
    for name, leaf in leaves.items():
        (folder / f"{name}.pem").write_bytes(leaf.both_pem)
        (folder / f"{name}.crt.pem").write_bytes(leaf.pem)
        (folder / f"{name}.key.pem").write_bytes(leaf.key_pem)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "locked.pem").write_bytes(own.locked_key_pem(b"secret"))
    (folder / "empty.pem").write_bytes(b"nothing here\n")
    return Papers(folder)


def with_doubled_extension() -> bytes:
    """A key and a certificate in PEM with an extension twice, which RFC 5280 forbids and cryptography refuses."""
    first, second = (x509.ObjectIdentifier(f"1.2.3.4.{last}") for last in (1, 2))
    return _altered(
        "doubled",
        [x509.UnrecognizedExtension(first, b"\5\0"), x509.UnrecognizedExtension(second, b"\5\0")],
        b"\6\4\x2a\3\4\2",
        b"\6\4\x2a\3\4\1",
    )


def with_odd_name() -> bytes:
    """A key and a certificate in PEM, one of whose names is an X.400 address: cryptography does not support these."""
    odd = x509.OtherName(x509.ObjectIdentifier("1.2.3.4.5"), b"\5\0")
    return _altered(
        "odd",
        [x509.SubjectAlternativeName([x509.DNSName("odd.example"), odd])],
        b"\xa0\x0a\6\4\x2a",
        b"\xa3\x0a\6\4\x2a",
    )


def _altered(name: str, extensions: list[x509.ExtensionType], old: bytes, new: bytes) -> bytes:
    """As `issue`, with these extensions and a change of the DER, after which the signature is wrong."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    assert der.count(old) == 1, der.hex()
    certificate = x509.load_der_x509_certificate(der.replace(old, new)).public_bytes(Encoding.PEM)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate
