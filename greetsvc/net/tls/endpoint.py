"""TLS listeners for parsed endpoints, and the facts of a finished handshake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import frozen
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import implementer

from greetsvc.net.tls.certificates import CertificateDirectory, CertificateFiles, CertificateSource
from greetsvc.net.tls.contexts import ReloadingContexts
from greetsvc.net.tls.pem import dns_names
from greetsvc.net.tls.transport import TlsFactory, TlsFailure
from greetsvc.printable import escaped

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory

    from greetsvc.net.endpoint import Endpoint

__all__ = ["TlsFacts", "facts", "tls_contexts", "tls_endpoint"]

_BACKLOG = 50
"""Twisted's default, for a reactor that uses what it is given."""


class TlsFacts(NamedTuple):
    """The facts of a finished handshake. ``certificate`` is the name in the peer's certificate, if it sent one."""

    version: str
    cipher: str
    sni: str | None
    alpn: str | None
    certificate: str | None


def facts(transport: Any) -> TlsFacts | None:
    """The facts of the handshake of a TLS transport; ``None`` for another transport and before the handshake ends.

    The names come from the peer, so characters that are not printable are escaped.
    """
    connection = transport.getHandle() if hasattr(transport, "getHandle") else None
    if not isinstance(connection, SSL.Connection):
        return None
    cipher = connection.get_cipher_name()
    if cipher is None:
        return None
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return TlsFacts(
        connection.get_protocol_version_name(),
        cipher,
        _text(connection.get_servername()),
        _text(connection.get_alpn_proto_negotiated()),
        _name(certificate) if certificate is not None else None,
    )


def _text(name: bytes | None) -> str | None:
    return escaped(name.decode("ascii", "backslashreplace")) if name else None


def _name(certificate: Certificate) -> str | None:
    """The common name of the subject, or the first DNS name; None where these cannot be read."""
    try:
        names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names = names or list(dns_names(certificate))
    except ValueError:
        return None
    return escaped(names[0]) if names else None


def tls_contexts(reactor: Any, endpoint: Endpoint, *, client_ca: str | None = None) -> ReloadingContexts:
    """The certificates of a TLS endpoint, which are loaded again when their files change. See `tls_endpoint`."""
    options = endpoint.options
    source: CertificateSource
    if endpoint.kind == "tls":
        source = CertificateDirectory(Path(options["path"]))
    elif endpoint.kind == "ssl":
        key, chain = options.get("privateKey", "server.pem"), options.get("extraCertChain")
        source = CertificateFiles(Path(key), Path(options.get("certKey", key)), Path(chain) if chain else None)
    else:
        raise ValueError(f"{endpoint.text!r} is not a tls: or ssl: endpoint")
    return ReloadingContexts(source, client_ca=Path(client_ca) if client_ca else None, reactor=reactor)


def tls_endpoint(
    reactor: Any,
    endpoint: Endpoint,
    *,
    client_ca: str | None = None,
    failed: Callable[[TlsFailure, IAddress], object] = lambda _reason, _peer: None,
    contexts: ReloadingContexts | None = None,
    below: IStreamServerEndpoint | None = None,
) -> IStreamServerEndpoint:
    r"""A listening endpoint for TLS like Twisted's ``tls:`` and ``ssl:``, except that certificates are reloaded.

    ``endpoint`` comes from `greetsvc.net.endpoint.parse_endpoint`: ``tls:DIR:port=443:backlog=50:interface=\:\:`` or
    ``ssl:PORT:privateKey=server.pem:certKey=...:extraCertChain=...:interface=...:backlog=50``. PROXY headers are the
    concern of the reactor's ``listenTCP``. With ``client_ca``, a PEM file, clients must send a certificate.
    ``failed`` is called with the reason and the peer of each connection on which TLS fails. ``contexts`` are those
    that `tls_contexts` made, if they exist already. ``below`` listens in place of a new TCP socket.

    Raises `ValueError` and `OSError` with one line that says what is wrong, before anything is bound.
    """
    if contexts is None:
        contexts = tls_contexts(reactor, endpoint, client_ca=client_ca)
    if below is None:
        kind: Any = TCP6ServerEndpoint if endpoint.kind == "tls" else TCP4ServerEndpoint
        below = kind(reactor, endpoint.port, endpoint.backlog or _BACKLOG, endpoint.host)
    return _TlsEndpoint(below, contexts, failed, reactor)


@implementer(IStreamServerEndpoint)
@frozen
class _TlsEndpoint:
    tcp: IStreamServerEndpoint
    contexts: ReloadingContexts
    failed: Callable[[TlsFailure, IAddress], object]
    reactor: Any

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        return self.tcp.listen(TlsFactory(self.contexts, protocolFactory, self.failed, self.reactor))
