"""TLS for a probe: trusted authorities, our own certificate, and handshake failures in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from greetsvc.client.alerts import reason_of_openssl
from greetsvc.client.certificates import rejection
from greetsvc.client.names import address_of, host_name
from greetsvc.errors import ConfigError
from greetsvc.net.tls.connection import Connection

if TYPE_CHECKING:
    from OpenSSL import SSL
    from OpenSSL.crypto import X509
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ClientTls"]

_Read = TypeVar("_Read")


class ClientTls:
    """How a probe does TLS. The files are read here, once.

    ``ca`` is a PEM file of the certificates to trust instead of the system's; ``insecure`` accepts any certificate;
    ``cert`` is our own PEM certificate (its chain may follow), ``key`` its key if that is not in the same file;
    ``sni`` is the server name to send and to find in the certificate, instead of the target's host.

    :raises ConfigError: when a file cannot be used.
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
            raise ConfigError("cannot be combined with insecure, which accepts any certificate", name="ca", value=ca)
        if key is not None and cert is None:
            raise ConfigError("needs a certificate (cert)", name="key", value=key)
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
            # Trust all certificates in the file, also an intermediate authority or the server's own certificate.
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)

    def creator(self, host: str, refuse: Callable[[str], None]) -> IOpenSSLClientConnectionCreator:
        """Makes the TLS connection of one probe; ``refuse`` gets the reason when a certificate is not accepted."""
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
    """OpenSSL calls this for each certificate of the chain. It must not raise: the caller is C code."""

    def __init__(self, name: str, refuse: Callable[[str], None]) -> None:
        self._name = name
        self._refuse = refuse

    def __call__(self, _: SSL.Connection, certificate: X509, number: int, depth: int, good: int) -> bool:
        why = rejection(certificate, 0 if good else number or 1, depth, self._name)
        if why:
            self._refuse(why)
        return not why


def _dns_name(name: str) -> str:
    if not name:
        raise ConfigError("must be a host name, not ''", name="sni", value=name)
    try:
        return name if address_of(name) else host_name(name)
    except ValueError:
        raise ConfigError("is not a host name", name="sni", value=name) from None


def _from_file(setting: str, path: str, read: Callable[[Path], _Read]) -> _Read:
    """What ``read`` finds in a PEM file. Its error gets the name of the setting."""
    try:
        return read(Path(path))
    except ConfigError as error:
        raise ConfigError(error.why, name=setting, value=path) from None


def _authorities(path: str) -> list[Any]:
    from OpenSSL.crypto import X509
    from twisted.internet.ssl import Certificate

    from greetsvc.net.tls.pem import read_certificates

    return [Certificate(X509.from_cryptography(found)) for found in _from_file("ca", path, read_certificates)]


def _our_certificate(cert: str, key: str | None) -> dict[str, Any]:
    from greetsvc.net.tls.pem import read_certificates, read_key

    own, *chain = _from_file("cert", cert, read_certificates)
    private = _from_file("cert", cert, read_key) if key is None else _from_file("key", key, read_key)
    return {"certificate": own, "privateKey": private, "extraCertChain": chain}
