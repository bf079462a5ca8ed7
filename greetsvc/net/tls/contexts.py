"""TLS contexts that follow the certificates on disk.

Twisted's own ``tls:`` and ``ssl:`` read a certificate once (``tls:`` again when a peer asks for a name it does not
know). Here the files' times are looked at when a connection comes, at most once a second; what a peer says
never leads to the disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolNegotiationFactory
from twisted.logger import Logger
from zope.interface import implementer

from greetsvc.net.tls.certificates import CertificateSource, Pair
from greetsvc.net.tls.pem import dns_names, read_pem, stamp_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ReloadingContexts", "read_authorities"]

_log = Logger()
_POLL = 1.0
"""Seconds between two looks at the files."""
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only; those of TLS 1.3 are all of that kind."""
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION


@implementer(IOpenSSLServerConnectionCreator)
class ReloadingContexts:
    """Makes the server side of TLS connections (1.2 and later) with the certificates that are on disk now.

    The client's server name chooses: that name, the wildcard over it, or the source's first pair. With
    ``client_ca``, a PEM file, clients must show a certificate that is signed by one of those in it. ``seconds`` is a
    clock that does not jump.

    New files that do not fit leave what was served before in place, and are reported in one line of the log.
    Raises `OSError` or `ValueError`, one line that names the file, when there is a fault in the first ones.
    """

    def __init__(
        self,
        source: CertificateSource,
        *,
        client_ca: Path | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._client_ca = client_ca.absolute() if client_ca is not None else None
        self._seconds = seconds
        self._session_id = secrets.token_bytes(16)
        self._stamp = self._look()
        self._looked_at = seconds()
        self._contexts: dict[str, SSL.Context] = {}
        problems = self._load()
        if problems:
            raise ValueError(problems[0])
        self._reported: set[str] = set()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        if self._seconds() - self._looked_at >= _POLL:
            self._looked_at = self._seconds()
            self._reload_if_changed()
        return SSL.Connection(self._default)

    def _look(self) -> object:
        return self._source.stamp(), stamp_of(self._client_ca) if self._client_ca is not None else None

    def _reload_if_changed(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            problems = self._load()
        except (OSError, ValueError) as error:
            problems = [str(error)]
        for problem in problems:
            if problem not in self._reported:
                _log.warn("TLS goes on with the certificate it had: {problem}", problem=problem)
        self._reported = set(problems)
        if not problems:
            _log.info("TLS certificates were read again")

    def _load(self) -> list[str]:
        authorities = read_authorities(self._client_ca) if self._client_ca is not None else ()
        pairs, problems = self._source.load()
        contexts = [self._context(pair, authorities) for pair in pairs]
        by_name: dict[str, SSL.Context] = {}
        # Of two for one name, the one that is good for longer.
        for pair, context in sorted(
            zip(pairs, contexts, strict=True), key=lambda each: each[0].certificate.not_valid_after_utc
        ):
            by_name.update(dict.fromkeys(dns_names(pair.certificate), context))
        for pair, context in zip(pairs, contexts, strict=True):
            by_name.setdefault(pair.path.stem.lower(), context)
        self._contexts, self._default = by_name, contexts[0]
        return problems

    def _context(self, pair: Pair, authorities: Sequence[Certificate]) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(_OPTIONS)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(self._session_id)
        context.set_tlsext_servername_callback(self._choose)
        context.set_alpn_select_callback(_select_protocol)
        if authorities:
            store = context.get_cert_store()
            assert store is not None
            for each in authorities:
                store.add_cert(crypto.X509.from_cryptography(each))
                context.add_client_ca(each)
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an intermediate in the file is trusted as such
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        try:
            context.use_certificate(pair.certificate)
            for each in pair.chain:
                context.add_extra_chain_cert(each)
            context.use_privatekey(pair.key)
        except SSL.Error:
            raise ValueError(f"{pair.path}: OpenSSL does not take this key and certificate for a server") from None
        context.set_cipher_list(_CIPHERS)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        """Called within the handshake, when the client names a server."""
        name = (connection.get_servername() or b"").decode("latin-1").lower()
        context = self._contexts.get(name) or self._contexts.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """The first protocol of the factory that the client offers too (RFC 7301); most factories name none."""
    negotiating = IProtocolNegotiationFactory(connection.get_app_data().factory.wrappedFactory, None)
    spoken = negotiating.acceptableProtocols() if negotiating is not None else ()
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def read_authorities(path: Path) -> tuple[Certificate, ...]:
    """The certificates of a PEM file. Raises `ValueError` or `OSError` where there are none."""
    found = read_pem(path).certificates
    if not found:
        raise ValueError(f"{path}: there is no certificate in it")
    return found
