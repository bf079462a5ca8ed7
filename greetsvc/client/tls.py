"""TLS for a probe: trusted authorities, our own certificate, and handshake failures in words."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from greetsvc.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from OpenSSL import SSL
    from OpenSSL.crypto import X509
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ClientTls", "tls_words"]

_Read = TypeVar("_Read")

_CHAIN = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed and not trusted",
    19: "the certificate chain ends in a self-signed certificate that is not trusted",
    20: "the certificate is signed by an unknown authority",
    21: "the certificate is signed by an unknown authority",
    23: "the certificate has been revoked",
    26: "the certificate is not meant for servers",
    79: "the certificate is signed by a certificate that is not an authority",
}
"""OpenSSL's X509_V_ERR_* in words (x509_vfy.h)."""

_NOT_TLS = (
    "wrong version number",
    "packet length too long",
    "record layer failure",
    "http request",
    "record overflow",
)


def tls_words(error: BaseException) -> str:
    """The last reason of an OpenSSL error, in words."""
    reasons = error.args[0] if error.args else None
    if not isinstance(reasons, list) or not reasons:
        return str(error) or type(error).__name__
    reason = str(reasons[-1][-1])
    if reason in _NOT_TLS:
        return f"the far end does not speak TLS ({reason})"
    name, alert, what = reason.partition(" alert ")
    return f"the far end refused: {what}" if alert and name else reason


class ClientTls:
    """How a probe does TLS. The files are read here, once.

    ``ca`` is a PEM file of the authorities to trust instead of the system's; ``insecure`` accepts any certificate;
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
            raise ConfigError(tls_words(error), name="key", value=str(key or cert)) from None

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

        connection = SSL.Connection(self._context, None)
        if not _is_address(self._name):
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
        if not good:
            self._refuse(_CHAIN.get(number, f"the certificate does not verify (OpenSSL error {number})"))
            return False
        if depth > 0:
            return True
        why = _wrong_name(certificate.to_cryptography(), self._name)
        if why:
            self._refuse(why)
        return not why


def _wrong_name(certificate: Certificate, name: str) -> str:
    """Why the certificate is not for this name; empty when it is."""
    from service_identity import CertificateError, VerificationError
    from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

    verify = verify_certificate_ip_address if _is_address(name) else verify_certificate_hostname
    try:
        verify(certificate, name)
    except (VerificationError, CertificateError, ValueError):
        return f"the certificate is not for {name}, {_names(certificate)}"
    return ""


def _names(certificate: Certificate) -> str:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return "it has no names"
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return f"but for {', '.join(found[:5]) or 'other kinds of names'}"


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _dns_name(name: str) -> str:
    if not name:
        raise ConfigError("must be a host name, not ''", name="sni", value=name)
    try:
        encoded = name.encode("idna").decode("ascii")
    except UnicodeError:
        encoded = ""
    if not encoded or not encoded.isprintable() or " " in encoded:
        raise ConfigError("is not a host name", name="sni", value=name)
    return encoded


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
