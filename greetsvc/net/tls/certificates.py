"""Certificates on disk: which key belongs to which certificate and chain, and whether the files have changed.

Errors are one line with the name of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from attrs import evolve, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from greetsvc.errors import ConfigError
from greetsvc.net.tls.pem import Pem, PrivateKey, Stamp, public_key, read_pem, stamp_of

__all__ = ["CertificateDirectory", "CertificateFiles", "CertificateSource", "Pair"]

_DEFAULT = "DEFAULT"


@frozen
class Pair:
    """A private key, its certificate, and the certificates between that and a root."""

    path: Path
    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()


class CertificateSource(Protocol):
    """Files that `Pair` s are read from."""

    def stamp(self) -> object:
        """A value that differs from the last one if a file has changed. Cheap; raises nothing."""
        ...

    def load(self) -> tuple[list[Pair], list[str]]:
        """The pairs, first the one for clients that name no known host; and what is wrong with the other files.

        Raises `OSError` or `ValueError` if there is no pair to serve.
        """
        ...


class CertificateFiles:
    """One key and its certificate, each in a file that is named (it may be the same file).

    The other certificates of that file, and those in ``chain``, are sent with the certificate.
    """

    def __init__(self, key: Path, certificate: Path, chain: Path | None = None) -> None:
        self._key = key.absolute()
        self._certificate = certificate.absolute()
        self._chain = chain.absolute() if chain is not None else None

    def stamp(self) -> object:
        """See `CertificateSource`."""
        return [stamp_of(path) for path in (self._key, self._certificate, self._chain) if path is not None]

    def load(self) -> tuple[list[Pair], list[str]]:
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
        leaf = next((each for each in certificates if public_key(each) == public_key(keys[0])), None)
        if leaf is None:
            raise ConfigError(
                f"the private key does not belong to the certificate in {self._certificate}", value=self._key
            )
        others = (*certificates, *chain)
        return [Pair(self._certificate, keys[0], leaf, tuple(each for each in others if each != leaf))], []


class CertificateDirectory:
    """All keys and certificates of the ``*.pem`` files in a folder and its subfolders, matched to each other.

    As in Twisted's ``tls:``, the key, its certificate and the chain may be in one file or in several. The pair with
    its key in ``DEFAULT.pem``, else the first by path, is for clients that name no known host. Hidden files and
    folders are ignored. If a file becomes unreadable or invalid, what it held before stays in use; so does the old
    pair of a file while its new key has no certificate.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._read: dict[Path, Pem] = {}
        self._pairs: list[Pair] = []

    def stamp(self) -> object:
        """See `CertificateSource`."""
        try:
            return self._scan()
        except OSError as error:
            return error.errno

    def load(self) -> tuple[list[Pair], list[str]]:
        """See `CertificateSource`."""
        problems: list[str] = []
        self._read = dict(self._read_changed(self._scan(), problems))
        matched = list(self._match(problems))
        if not matched:
            raise ConfigError(problems[0] if problems else f"{self._path}: no *.pem file in it holds a private key")
        self._pairs = sorted(matched, key=lambda pair: (pair.path.stem != _DEFAULT, pair.path))
        return self._pairs, problems

    def _scan(self) -> dict[Path, Stamp]:
        def fail(error: OSError) -> None:
            raise error

        found = {}
        for folder, folders, files in os.walk(self._path, onerror=fail):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.endswith(".pem") and not name.startswith("."):
                    path = Path(folder, name)
                    found[path] = stamp_of(path)
        return found

    def _read_changed(self, found: Mapping[Path, Stamp], problems: list[str]) -> Iterator[tuple[Path, Pem]]:
        for path, stamp in found.items():
            pem = self._read.get(path, Pem(path))
            if pem.stamp != stamp:
                try:
                    pem = read_pem(path, stamp)
                except ConfigError as error:
                    problems.append(str(error))
                    pem = evolve(pem, stamp=stamp)
            yield path, pem

    def _match(self, problems: list[str]) -> Iterator[Pair]:
        by_key: dict[bytes, list[tuple[Path, x509.Certificate]]] = {}
        for pem in self._read.values():
            for certificate in pem.certificates:
                by_key.setdefault(public_key(certificate), []).append((pem.path, certificate))
        for pem in self._read.values():
            for key in pem.keys:
                candidates = by_key.get(public_key(key))
                if candidates:
                    where, leaf = max(candidates, key=lambda each: each[1].not_valid_after_utc)
                    yield Pair(pem.path, key, leaf, self._chain(leaf, where))
                else:
                    problems.append(f"{pem.path}: no certificate in {self._path} belongs to the private key in it")
                    yield from (pair for pair in self._pairs if pair.path == pem.path)

    def _chain(self, leaf: x509.Certificate, where: Path) -> tuple[x509.Certificate, ...]:
        """The certificates from the leaf's issuer up to the root, without it; those in the same file first."""
        files = sorted(self._read.values(), key=lambda pem: pem.path != where)
        known = [each for pem in files for each in pem.certificates if each.subject != each.issuer]
        chain: list[x509.Certificate] = []
        while (issuer := _issuer(chain[-1] if chain else leaf, known)) is not None and issuer not in (leaf, *chain):
            chain.append(issuer)
        return tuple(chain)


def _issuer(of: x509.Certificate, known: Iterable[x509.Certificate]) -> x509.Certificate | None:
    for each in known:
        if each.subject == of.issuer:
            try:
                of.verify_directly_issued_by(each)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return each
    return None
