"""Chains of certificates with one thing wrong, as a test wants it, in PEM files."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID, NameOID

__all__ = ["Link", "link", "names_in_der", "serve"]

Extension = tuple[x509.ExtensionType, bool]


@frozen
class Link:
    """A certificate of a chain, with its private key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def link(
    name: str,
    issuer: Link | None = None,
    *,
    names: Sequence[str | x509.GeneralName] = (),
    authority: bool = False,
    days: tuple[float, float] = (-3, 3),
    path_length: int | None = None,
    extensions: Sequence[Extension] = (),
    signed_with: EllipticCurvePrivateKey | None = None,
) -> Link:
    """A certificate that is signed by ``issuer``, or by itself, valid between two moments in days from now."""
    key = generate_private_key(SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    signer = signed_with or (issuer.key if issuer else key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
    )
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(n) if isinstance(n, str) else n for n in names])
        builder = builder.add_extension(alternative, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Link(builder.sign(signer, SHA256()), key)


def names_in_der(*entries: tuple[int, bytes]) -> Extension:
    """Alternative names that a library would not write: each with its tag in DER (0x82 for DNS, 0x87 for IP)."""
    inside = b"".join(bytes([tag, len(value)]) + value for tag, value in entries)
    return x509.UnrecognizedExtension(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30" + bytes([len(inside)]) + inside
    ), False


def serve(folder: Path, leaf: Link, *others: Link) -> ssl.SSLContext:
    """The TLS context of a server that shows ``leaf`` and, behind it, ``others``."""
    path = folder / "served.pem"
    path.write_bytes(leaf.key_pem + b"".join(each.pem for each in (leaf, *others)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
