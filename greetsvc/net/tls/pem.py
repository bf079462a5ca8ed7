"""Private keys and certificates from PEM files, for servers and clients.

Every error is a `ConfigError` of one line with the file as its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from greetsvc.errors import ConfigError
from greetsvc.files import read_plain
from greetsvc.net.tls.blocks import Block, pem_blocks

__all__ = [
    "CannotRead",
    "Pem",
    "PrivateKey",
    "dns_names",
    "public_key",
    "read_certificates",
    "read_key",
    "read_pem",
    "stamp_of",
]

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
"""The keys that TLS can use."""

Stamp: TypeAlias = tuple[int, ...] | int
"""Differs if a file has changed: its identity, size and times; the errno if they cannot be read."""

_Made = TypeVar("_Made")


class CannotRead(ConfigError):
    """The system refused to read a file. It may not refuse the next time, though the file does not change."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file; raises nothing."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno or -1
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@frozen
class Pem:
    """The keys and certificates of one PEM file."""

    path: Path
    keys: tuple[PrivateKey, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()
    stamp: Stamp = field(default=0, eq=False)


def read_pem(path: Path, stamp: Stamp = 0) -> Pem:
    """All private keys and certificates of a file; it may hold none."""
    blocks = list(_blocks(path))
    keys = tuple(_key(path, block) for block in blocks if block.label.endswith("PRIVATE KEY"))
    certificates = tuple(_own_certificate(path, block) for block in blocks if block.label.endswith("CERTIFICATE"))
    return Pem(path, keys, certificates, stamp)


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a file: at least one. Keys in it are not read."""
    blocks = list(_blocks(path))
    found = tuple(_certificate(path, block) for block in blocks if block.label.endswith("CERTIFICATE"))
    if not found:
        others = f", only {', '.join(block.label for block in blocks[:5])}" if blocks else ""
        raise ConfigError(f"there is no certificate in it{others}", value=path)
    return found


def read_key(path: Path) -> PrivateKey:
    """The first private key of a file."""
    for block in _blocks(path):
        if block.label.endswith("PRIVATE KEY"):
            return _key(path, block)
    raise ConfigError("there is no private key in it", value=path)


def _blocks(path: Path) -> Iterator[Block]:
    try:
        data, _ = read_plain(path)
    except OSError as error:
        raise CannotRead(f"cannot be read: {error.strerror or error}", value=path) from None
    except ConfigError:
        raise
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"cannot be read: {error}", value=path) from None
    try:
        yield from pem_blocks(data)
    except ValueError as error:
        raise ConfigError(str(error), value=path) from None


def _key(path: Path, block: Block) -> PrivateKey:
    def load() -> object:
        try:
            return load_pem_private_key(block.text, None)
        except TypeError:
            raise ConfigError("a private key in it needs a passphrase; use one without", value=path) from None

    key = _made(load, ConfigError("a private key in it is not valid", value=path))
    if not isinstance(key, PrivateKey):
        raise ConfigError("a private key in it is not for TLS; use an RSA, ECDSA or EdDSA key", value=path)
    return key


def _certificate(path: Path, block: Block) -> x509.Certificate:
    return _made(lambda: x509.load_pem_x509_certificate(block.text), _bad_certificate(path, block))


def _own_certificate(path: Path, block: Block) -> x509.Certificate:
    """A certificate to serve, or of a chain: cryptography parses the parts that are needed later only when asked."""

    def load() -> x509.Certificate:
        certificate = x509.load_pem_x509_certificate(block.text)
        _ = certificate.subject, certificate.issuer, certificate.not_valid_after_utc, public_key(certificate)
        return certificate

    return _made(load, _bad_certificate(path, block))


def _bad_certificate(path: Path, block: Block) -> ConfigError:
    return ConfigError(f"{block.place} is not a valid certificate", value=path)


def _made(load: Callable[[], _Made], bad: ConfigError) -> _Made:
    try:
        return load()
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001 - the errors of cryptography have no base of their own
        raise bad from None


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names that a certificate was issued for, in lower case; a wildcard is ``*.example.com``.

    Raises `ConfigError` if they cannot be read: there is an extension twice, or a kind of name that is not supported.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except Exception as error:  # noqa: BLE001 - as in _made
        raise ConfigError(f"the names in the certificate cannot be read: {error}") from None
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


def public_key(of: PrivateKey | x509.Certificate) -> bytes:
    """The public key of a private key or a certificate, in a form to compare."""
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
