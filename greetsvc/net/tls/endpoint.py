"""TLS listeners from endpoint strings, and what a finished handshake told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, wrapServerTLS

from greetsvc.net.endpoint import port_number, split_endpoint
from greetsvc.net.tls.certificates import CertificateDirectory, CertificateFiles, CertificateSource
from greetsvc.net.tls.contexts import ReloadingContexts
from greetsvc.net.tls.pem import dns_names
from greetsvc.printable import escaped

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from twisted.internet.interfaces import IStreamServerEndpoint

__all__ = ["TlsFacts", "facts", "tls_endpoint"]

_ARGUMENTS = {
    "tls": ("path", "port", "backlog", "interface"),
    "ssl": (
        *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
        *("extraCertChain", "dhParameters"),
    ),
}
"""What each kind takes, in Twisted's order of position."""


class TlsFacts(NamedTuple):
    """What a finished handshake told. ``certificate`` is the name in the peer's certificate, where it sent one."""

    version: str
    cipher: str
    sni: str | None
    alpn: str | None
    certificate: str | None


def facts(transport: Any) -> TlsFacts | None:
    """What the handshake of a TLS transport told; ``None`` for another transport, or one that has not finished it.

    The names come from the peer: what is not printable in them is escaped.
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
    """The common name of the subject, or the first DNS name."""
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    names += dns_names(certificate)
    return escaped(names[0]) if names else None


def tls_endpoint(reactor: Any, description: str, *, client_ca: str | None = None) -> IStreamServerEndpoint:
    r"""A listening endpoint from a ``tls:`` or ``ssl:`` string, as Twisted's own, but with certificates that reload.

    ``tls:DIR:port=443:backlog=50:interface=\:\:`` and
    ``ssl:PORT:privateKey=server.pem:certKey=…:extraCertChain=…:interface=…:backlog=50``. ``sslmethod`` and
    ``dhParameters`` are refused: versions and key exchange are not for choosing here.

    Raises `ValueError` and `OSError` with one line that says what is wrong, before anything is bound.
    """
    (kind, *arguments), options = split_endpoint(description)
    names = _ARGUMENTS.get(kind)
    if names is None:
        raise ValueError(f"{description!r} is not a tls: or ssl: endpoint")
    if len(arguments) > len(names):
        raise ValueError(f"{kind}: takes no more than {', '.join(names)}, not {arguments[len(names)]!r}")
    for name, argument in zip(names, arguments, strict=False):
        if name in options:
            raise ValueError(f"{kind}: is given {name} twice")
        options[name] = argument
    for name in options:
        if name not in names:
            raise ValueError(f"{kind}: takes no option {name!r}; it takes {', '.join(names)}")
    for name in ("sslmethod", "dhParameters"):
        if name in options:
            raise ValueError(f"{kind}: does not take {name}: it is always TLS 1.2 or later, with elliptic curves")
    port = port_number(options.get("port", "443" if kind == "tls" else ""))
    backlog = options.get("backlog", "50")
    if not backlog.isascii() or not backlog.isdecimal():
        raise ValueError(f"the backlog must be a whole number, not {backlog!r}")
    source: CertificateSource
    if kind == "tls":
        if not options.get("path"):
            raise ValueError("tls: needs the folder of its certificates, as in tls:DIR:port=8443")
        source = CertificateDirectory(Path(options["path"]))
        tcp: Any = TCP6ServerEndpoint(reactor, port, int(backlog), options.get("interface", "::"))
    else:
        key = options.get("privateKey", "server.pem")
        chain = options.get("extraCertChain")
        source = CertificateFiles(Path(key), Path(options.get("certKey", key)), Path(chain) if chain else None)
        tcp = TCP4ServerEndpoint(reactor, port, int(backlog), options.get("interface", ""))
    contexts = ReloadingContexts(source, client_ca=Path(client_ca) if client_ca else None)
    return wrapServerTLS(contexts, tcp, clock=reactor)
