"""Certificates on disk: which key belongs to which certificate and chain, and whether the files have changed.

Errors are one line with the name of the file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from attrs import evolve, field, frozen
from cryptography import x509

from greetsvc.errors import ConfigError
from greetsvc.net.tls.pem import CannotRead, Pem, PrivateKey, Stamp, dns_names, public_key, read_pem, stamp_of

__all__ = ["CertificateDirectory", "CertificateFiles", "CertificateSource", "Found", "Pair"]

_DEFAULT = "DEFAULT"


@frozen
class Pair:
    """A private key, its certificate, the certificates between that and a root, and the names it is for.

    Raises `ConfigError` if the names in the certificate cannot be read.
    """

    path: Path
    key: PrivateKey = field(eq=False)
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()
    names: tuple[str, ...] = field(init=False, eq=False)

    @names.default
    def _read_names(self) -> tuple[str, ...]:
        try:
            return dns_names(self.certificate)
        except ConfigError as error:
            raise ConfigError(error.why, value=self.path) from None


@frozen
class Found:
    """What a source holds now: its pairs, first the one for clients that name no known host.

    ``problems`` is what is wrong with files of which the old content stays in use. ``retry``: whether another try may
    succeed although no file changes.
    """

    pairs: list[Pair]
    problems: list[str] = field(factory=list)
    retry: bool = False


class CertificateSource(Protocol):
    """Files that `Pair` s are read from. Its methods may be called in a thread, one at a time."""

    def stamp(self) -> object:
        """A value that differs from the last one if a file has changed. Raises nothing."""
        ...

    def load(self) -> Found:
        """Read what has changed. Raises `OSError` or `ValueError` if there is no pair to serve."""
        ...


class CertificateFiles:
    """Keys and their certificates, in files that are named (it may be one file).

    The other certificates of that file, and those in ``chain``, are sent with each certificate.
    """

    def __init__(self, key: Path, certificate: Path, chain: Path | None = None) -> None:
        self._key = key.absolute()
        self._certificate = certificate.absolute()
        self._chain = chain.absolute() if chain is not None else None

    def stamp(self) -> object:
        """See `CertificateSource`."""
        return [stamp_of(path) for path in (self._key, self._certificate, self._chain) if path is not None]

    def load(self) -> Found:
        """See `CertificateSource`."""
        keys, certificates = read_pem(self._key).keys, read_pem(self._certificate).certificates
        chain = read_pem(self._chain).certificates if self._chain is not None else ()
        for path, there, what in (
            (self._key, keys, "private key"),
            (self._certificate, certificates, "certificate"),
            (self._chain, chain or self._chain is None, "certificate"),
        ):
            if not there:
                raise ConfigError(f"there is no {what} in it", value=path)
        leaves = {public_key(each): each for each in reversed(certificates)}
        pairs = [(key, leaves[public_key(key)]) for key in keys if public_key(key) in leaves]
        if not pairs:
            raise ConfigError(
                f"the private key does not belong to the certificate in {self._certificate}", value=self._key
            )
        used = [leaf for _, leaf in pairs]
        others = tuple(each for each in (*certificates, *chain) if each not in used)
        return Found([Pair(self._certificate, key, leaf, others) for key, leaf in pairs])


class CertificateDirectory:
    """All keys and certificates of the ``*.pem`` files in a folder and its subfolders, matched to each other.

    As in Twisted's ``tls:``, the key, its certificate and the chain may be in one file or in several. The pair with
    its key in ``DEFAULT.pem``, else the first by path, is for clients that name no known host. Hidden files and
    folders are ignored.

    While a file is there, what was served from it stays in use: also when the file becomes empty, unreadable or
    invalid, when its new key has no certificate, and when it holds a certificate without its key beside the key of
    another file's. Remove a file to end the use of what it held.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._read: dict[Path, Pem] = {}
        self._pairs: list[Pair] = []

    def stamp(self) -> object:
        """See `CertificateSource`."""
        try:
            found, refused = self._scan()
        except OSError as error:
            return error.errno
        return found, [(error.filename, error.errno) for error in refused]

    def load(self) -> Found:
        """See `CertificateSource`."""
        problems: list[str] = []
        found, refused = self._scan()
        retry = bool(refused)
        for error in refused:
            problems.append(f"{error.filename}: cannot be read: {error.strerror}")
            found |= {path: pem.stamp for path, pem in self._read.items() if Path(error.filename) in path.parents}
        read: dict[Path, Pem] = {}
        for path, stamp in found.items():
            read[path] = old = self._read.get(path, Pem(path))
            if old.stamp != stamp:
                try:
                    new = read_pem(path, stamp)
                    if (old.keys or old.certificates) and not (new.keys or new.certificates):
                        raise ConfigError("there is no key and no certificate in it any more", value=path)
                    read[path] = new
                except CannotRead as error:
                    problems.append(str(error))
                    retry = True
                except ConfigError as error:
                    problems.append(str(error))
                    read[path] = evolve(old, stamp=stamp)
        self._read = read
        pairs = list(self._match(problems))
        pairs += self._still_used(pairs, problems)
        if not pairs:
            raise ConfigError(problems[0] if problems else f"{self._path}: no *.pem file in it holds a private key")
        self._pairs = sorted(pairs, key=lambda pair: (pair.path.stem != _DEFAULT, pair.path))
        return Found(self._pairs, problems, retry)

    def _scan(self) -> tuple[dict[Path, Stamp], list[OSError]]:
        """The files with their stamps, and the errors of subfolders. Raises `OSError` for the folder itself."""
        refused: list[OSError] = []
        found = {}
        for folder, folders, files in os.walk(self._path, onerror=refused.append):
            # A folder in place of a file that was read is a file that cannot be read.
            files += [name for name in folders if Path(folder, name) in self._read]
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in files)
            for name in sorted(files):
                if name.endswith(".pem") and not name.startswith("."):
                    path = Path(folder, name)
                    found[path] = stamp_of(path)
        for error in refused:
            if Path(error.filename) == self._path:
                raise error
        return found, refused

    def _match(self, problems: list[str]) -> Iterator[Pair]:
        by_key: dict[bytes, list[tuple[Path, x509.Certificate]]] = defaultdict(list)
        by_subject: dict[x509.Name, list[tuple[Path, x509.Certificate]]] = defaultdict(list)
        for pem in self._read.values():
            for certificate in pem.certificates:
                by_key[public_key(certificate)].append((pem.path, certificate))
                if certificate.subject != certificate.issuer:
                    by_subject[certificate.subject].append((pem.path, certificate))
        keys = {public_key(key) for pem in self._read.values() for key in pem.keys}
        for pem in self._read.values():
            alone = any(public_key(each) not in keys and not _is_authority(each) for each in pem.certificates)
            for key in pem.keys:
                candidates = by_key.get(public_key(key))
                if not candidates:
                    problems.append(f"{pem.path}: no certificate in {self._path} belongs to the private key in it")
                    continue
                where, leaf = max(candidates, key=lambda each: each[1].not_valid_after_utc)
                if alone and pem.path not in {path for path, _ in candidates}:
                    problems.append(f"{pem.path}: the private key in it belongs to the certificate in {where} only")
                    continue
                try:
                    yield Pair(pem.path, key, leaf, _chain(leaf, where, by_subject))
                except ConfigError as error:
                    problems.append(str(error))

    def _still_used(self, pairs: list[Pair], problems: list[str]) -> Iterator[Pair]:
        """The pairs that were served from files that are still there, but hold no pair any more."""
        paths = {pair.path for pair in pairs}
        keys = {public_key(pair.key) for pair in pairs}
        for old in self._pairs:
            if old.path in self._read and old.path not in paths and public_key(old.key) not in keys:
                if not any(problem.startswith(f"{old.path}: ") for problem in problems):
                    problems.append(f"{old.path}: there is no private key in it any more")
                yield old


def _chain(
    leaf: x509.Certificate, where: Path, by_subject: Mapping[x509.Name, list[tuple[Path, x509.Certificate]]]
) -> tuple[x509.Certificate, ...]:
    """The certificates from the leaf's issuer up to the root, without it; those in the same file first."""
    chain: list[x509.Certificate] = []
    last = leaf
    while True:
        candidates = sorted(by_subject.get(last.issuer, ()), key=lambda each: each[0] != where)
        issuer = next((each for _, each in candidates if _issued(each, last)), None)
        if issuer is None or issuer in (leaf, *chain):
            return tuple(chain)
        chain.append(last := issuer)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):  # it has none, or extensions that cannot be read
        return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - the errors of cryptography have no base of their own
        return False
    return True
