"""Private keys and certificates out of PEM files. Errors are one line that names the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

__all__ = ["Pem", "ServerKey", "Stamp", "dns_names", "public_key", "read_pem", "stamp_of"]

ServerKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

Stamp: TypeAlias = tuple[int, ...] | int
"""What a file looks like from outside, to compare with; the errno where it cannot be looked at."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)


def stamp_of(path: Path) -> Stamp:
    """The identity, size and times of a file; raises nothing."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno or -1
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@frozen
class Pem:
    """What a PEM file holds."""

    path: Path
    keys: tuple[ServerKey, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()
    stamp: Stamp = field(default=0, eq=False)


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names a certificate was issued for, lower case; a wildcard is ``*.example.com``."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


def read_pem(path: Path, stamp: Stamp = 0) -> Pem:
    """The private keys and certificates of a file. Raises `OSError` and `ValueError`."""
    data = path.read_bytes()
    keys: list[ServerKey] = []
    certificates = []
    blocks = list(_BLOCK.finditer(data))
    if len(blocks) != data.count(b"-----BEGIN"):
        raise ValueError(f"{path}: a PEM block in it has no end")
    for block in blocks:
        if block[1].endswith(b"PRIVATE KEY"):
            keys.append(_key(path, block[0]))
        elif block[1].endswith(b"CERTIFICATE"):
            certificates.append(_certificate(path, block[0]))
    return Pem(path, tuple(keys), tuple(certificates), stamp)


def _key(path: Path, block: bytes) -> ServerKey:
    try:
        key = load_pem_private_key(block, None)
    except TypeError:
        raise ValueError(f"{path}: the private key in it needs a passphrase; give one that does not") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path}: a private key in it is not valid") from None
    if not isinstance(key, ServerKey):
        raise ValueError(f"{path}: a private key in it is none for TLS: RSA, ECDSA or EdDSA are")
    return key


def _certificate(path: Path, block: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        public_key(certificate)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path}: a certificate in it is not valid") from None
    return certificate


def public_key(of: ServerKey | x509.Certificate) -> bytes:
    """Its public key, or the one that belongs to it, to compare with."""
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
