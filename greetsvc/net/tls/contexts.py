"""TLS contexts that follow the certificates on disk.

Twisted's own ``tls:`` and ``ssl:`` read a certificate once (``tls:`` again for each unknown name that a peer asks
for). Here a new connection makes the files' times be checked, at most once a second. What a peer sends never causes
a read from disk.
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

from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.tls.certificates import CertificateSource, Pair
from greetsvc.net.tls.pem import dns_names, read_certificates, stamp_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ReloadingContexts"]

_log = Logger()
_POLL = 1.0
"""Seconds between two checks of the files."""
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: only those with forward secrecy and authenticated encryption. All those of TLS 1.3 have both."""
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION


@implementer(IOpenSSLServerConnectionCreator)
class ReloadingContexts:
    """Makes the server side of TLS connections (1.2 and later) with the certificates that are on disk now.

    The certificate is chosen by the server name that the client sends (SNI): one for that name, one for its wildcard,
    or the source's first pair. With ``client_ca``, a PEM file, a client must send a certificate that is signed by one
    of those in it. ``seconds`` is a monotonic clock.

    If new files are invalid, the old certificates stay in use, and the log says so in one line per fault. Raises
    `OSError` or `ValueError`, one line with the name of the file, if the first ones are.
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
            raise ConfigError(problems[0])
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
            problems = [reason_of(error)]
        for problem in problems:
            if problem not in self._reported:
                _log.warn("TLS keeps the old certificate: {problem}", problem=problem)
        self._reported = set(problems)
        if not problems:
            _log.info("TLS certificates have been reloaded")

    def _load(self) -> list[str]:
        authorities = read_certificates(self._client_ca) if self._client_ca is not None else ()
        pairs, problems = self._source.load()
        contexts = [self._context(pair, authorities) for pair in pairs]
        by_name: dict[str, SSL.Context] = {}
        # Of two certificates for one name, the one that expires later: it is put in last.
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
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # trust an intermediate authority too
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        try:
            context.use_certificate(pair.certificate)
            for each in pair.chain:
                context.add_extra_chain_cert(each)
            context.use_privatekey(pair.key)
        except SSL.Error:
            raise ConfigError("OpenSSL rejects this key and certificate", value=pair.path) from None
        context.set_cipher_list(_CIPHERS)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        """Choose the certificate. OpenSSL calls this during the handshake, with or without a server name."""
        name = (connection.get_servername() or b"").decode("latin-1").lower()
        context = self._contexts.get(name) or self._contexts.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """The first protocol of the factory that the client offers too (RFC 7301, ALPN); most factories name none."""
    negotiating = IProtocolNegotiationFactory(connection.get_app_data().factory.wrappedFactory, None)
    spoken = negotiating.acceptableProtocols() if negotiating is not None else ()
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)
