"""TLS for the probe: whom to trust, who we are, and in words why it was not agreed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from greetsvc.client.alerts import reason_of_openssl
from greetsvc.client.certificates import rejection
from greetsvc.client.names import address_of, host_name
from greetsvc.errors import ConfigError
from greetsvc.net.tls.blocks import pem_blocks
from greetsvc.net.tls.connection import Connection

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from OpenSSL import SSL
    from OpenSSL.crypto import X509
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ClientTls"]


class ClientTls:
    """How to speak TLS: the files are read here, once.

    ``ca`` is a PEM file of the authorities to trust instead of the system's; ``insecure`` trusts anyone; ``cert`` and
    ``key`` are our own PEM certificate (its chain may follow) and its key, which may be in the same file; ``sni`` is
    the name to ask for and to find in the certificate instead of the target's.

    :raises ConfigError: naming the file that cannot be used, and why.
    """

    def __init__(
        self,
        *,
        ca: str | None = None,
        insecure: bool = False,
        cert: str | None = None,
        key: str | None = None,
        sni: str | None = None,
    ) -> None:
        from OpenSSL import SSL
        from OpenSSL.crypto import X509StoreFlags
        from twisted.internet.ssl import CertificateOptions, platformTrust, trustRootFromCertificates

        for setting, path in (("ca", ca), ("cert", cert), ("key", key)):
            if path == "":
                raise ConfigError("must be a file, not ''", name=setting, value=path)
        if ca is not None and insecure:
            raise ConfigError("not together with insecure, which trusts anyone", name="ca", value=ca)
        if key is not None and cert is None:
            raise ConfigError("needs a cert", name="key", value=key)
        self._insecure = insecure
        self._sni = None if sni is None else _dns_name(sni)
        ours: dict[str, Any] = {}
        if cert is not None:
            ours = _our_certificate(cert, key)
        trust = None
        if not insecure:
            trust = platformTrust() if ca is None else trustRootFromCertificates(_authorities(ca))
        try:
            self._context: SSL.Context = CertificateOptions(trustRoot=trust, **ours).getContext()
        except (SSL.Error, TypeError) as error:
            raise ConfigError(reason_of_openssl(error), name="key", value=str(key or cert)) from None
        if ca is not None and (store := self._context.get_cert_store()) is not None:
            # All that the file holds is trusted, an intermediate authority or the server's own certificate too.
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)

    def creator(self, host: str, refuse: Callable[[str], None]) -> IOpenSSLClientConnectionCreator:
        """What makes one probe's TLS connection; ``refuse`` is told why a certificate is not accepted."""
        return _Creator(self._context, self._sni or host, None if self._insecure else refuse)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context, name: str, refuse: Callable[[str], None] | None) -> None:
        self._context = context
        self._name = name.rstrip(".").partition("%")[0]
        self._refuse = refuse

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        from OpenSSL import SSL

        connection = Connection(self._context, None)
        if address_of(self._name) is None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        if self._refuse is not None:
            connection.set_verify(SSL.VERIFY_PEER, _Verify(self._name, self._refuse))
        return connection


class _Verify:
    """OpenSSL asks this about each certificate of the chain; nothing may be raised into it."""

    def __init__(self, name: str, refuse: Callable[[str], None]) -> None:
        self._name = name
        self._refuse = refuse

    def __call__(self, _: SSL.Connection, certificate: X509, number: int, depth: int, good: int) -> bool:
        why = rejection(certificate, 0 if good else number or 1, depth, self._name)
        if why:
            self._refuse(why)
        return not why


def _dns_name(name: str) -> str:
    try:
        return name if address_of(name) else host_name(name)
    except ValueError:
        raise ConfigError(
            "is not a host name" if name else "must be a host name, not ''", name="sni", value=name
        ) from None


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(f"cannot be read: {why or error}", name=setting, value=path) from None


def _certificates(setting: str, path: str) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificate

    found: list[Certificate] = []
    others: list[str] = []
    pem = _read(setting, path)
    try:
        for block in pem_blocks(pem):
            if not block.label.endswith("CERTIFICATE"):
                others.append(block.label)
                continue
            try:
                found.append(load_pem_x509_certificate(block.text))
            except ValueError:
                raise ValueError(f"{block.place} is not a valid certificate") from None
    except ValueError as error:
        raise ConfigError(str(error), name=setting, value=path) from None
    if not found:
        but = f", but {', '.join(others[:5])}" if others else ""
        raise ConfigError(f"holds no certificate in PEM form{but}", name=setting, value=path)
    return found


def _authorities(path: str) -> list[Any]:
    from OpenSSL.crypto import X509
    from twisted.internet.ssl import Certificate

    return [Certificate(X509.from_cryptography(found)) for found in _certificates("ca", path)]


def _our_certificate(cert: str, key: str | None) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    own, *chain = _certificates("cert", cert)
    setting, path = ("cert", cert) if key is None else ("key", key)
    pem = _read(setting, path)
    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigError("holds a key that needs a passphrase", name=setting, value=path) from None
    except ValueError:
        raise ConfigError("holds no private key in PEM form", name=setting, value=path) from None
    return {"certificate": own, "privateKey": private, "extraCertChain": chain}
