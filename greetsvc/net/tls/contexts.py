"""TLS contexts that follow the certificates on disk.

Twisted's own ``tls:`` and ``ssl:`` read a certificate once (``tls:`` again for each unknown name that a peer asks
for). Here the files are checked twice a second, and read in a thread: 800 certificates took a second of the reactor.
What a peer sends never causes a read from disk.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from attrs import frozen
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolNegotiationFactory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.tls.certificates import CertificateSource, Pair
from greetsvc.net.tls.connection import Connection
from greetsvc.net.tls.pem import read_certificates, stamp_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IDelayedCall
    from twisted.protocols.tls import TLSMemoryBIOProtocol
    from twisted.python.failure import Failure

__all__ = ["POLL", "ReloadingContexts"]

_log = Logger()
POLL = 0.5
"""Seconds between two checks of the files. A change is read at the check after the one that finds it, so that its
writer has time to finish."""
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: only those with forward secrecy and authenticated encryption. All those of TLS 1.3 have both."""
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION

_Pairs: TypeAlias = tuple[Pair, ...]
"""Pairs for the same names, each with a key of another kind."""


@frozen
class _Contexts:
    """What is served: a context for each host name, and one for all other clients."""

    by_name: Mapping[str, SSL.Context]
    default: SSL.Context
    problems: Sequence[str]
    expiries: Mapping[str, float]


@implementer(IOpenSSLServerConnectionCreator)
class ReloadingContexts:
    """Makes the server side of TLS connections (1.2 and later) with the certificates that are on disk.

    The certificate is chosen by the server name that the client sends (SNI): one for that name, one for its wildcard,
    or the source's first pair. Of several certificates for a name, with keys of different kinds (RSA, ECDSA), the
    client gets one that it can verify. With ``client_ca``, a PEM file, a client must send a certificate that is
    signed by one of those in it.

    Between `start` and `stop` the files are checked every `POLL` seconds, in a thread of ``reactor``. What cannot be
    used does not replace what was served, and the log says so in one line per fault.

    Raises `OSError` or `ValueError`, one line with the name of the file, if the first files cannot be used.
    """

    def __init__(self, source: CertificateSource, *, client_ca: Path | None = None, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._source = source
        self._client_ca = client_ca.absolute() if client_ca is not None else None
        self._reactor = reactor
        self._session_id = secrets.token_bytes(16)
        self._authorities: Sequence[Certificate] = ()
        self._made: dict[_Pairs, SSL.Context] = {}
        self._pairs: list[Pair] = []
        self._found = self._look()
        self._loaded: object = None
        self._waited = False
        self._contexts = self._load()
        if self._contexts.problems:
            raise ConfigError(self._contexts.problems[0])
        self._reported: set[str] = set()
        self._timer: IDelayedCall | None = None
        self._running = False
        self._checks = False

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        return Connection(self._contexts.default)

    @property
    def expiries(self) -> Mapping[str, float]:
        """When the certificate for each name expires, in seconds since 1970.

        Certificates that name no host are called by the name of their file.
        """
        return self._contexts.expiries

    def start(self) -> None:
        """Check the files from now on."""
        self._running = True
        if self._timer is None and not self._checks:  # after a stop and a start a check may still be under way
            self._timer = self._reactor.callLater(POLL, self._poll)

    def stop(self) -> None:
        """Check no longer."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        self._checks = True
        looked: Deferred[_Contexts | None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._load_if_changed
        )
        looked.addCallbacks(self._install, self._failed)
        looked.addErrback(lambda failure: _log.failure("TLS certificates could not be checked", failure))
        looked.addCallback(lambda _: self._checked())

    def _checked(self) -> None:
        self._checks = False
        if self._running:
            self.start()

    def _install(self, new: _Contexts | None) -> None:
        if new is None:
            return
        changed = (new.by_name, new.default) != (self._contexts.by_name, self._contexts.default)
        self._contexts = new
        if changed:
            _log.info("TLS certificates have been reloaded")
        self._report(new.problems)

    def _failed(self, failure: Failure) -> None:
        failure.trap(OSError, ValueError)
        self._report([reason_of(cast(Exception, failure.value))])

    def _report(self, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in self._reported:
                _log.warn("TLS keeps the old certificate: {problem}", problem=problem)
        self._reported = set(problems)

    # In the thread, or before the start: one call at a time

    def _look(self) -> object:
        return self._source.stamp(), stamp_of(self._client_ca) if self._client_ca is not None else None

    def _load_if_changed(self) -> _Contexts | None:
        found, self._found = self._found, self._look()
        if self._found == self._loaded or (self._found != found and not self._waited):
            self._waited = self._found != self._loaded
            return None
        self._waited = False
        return self._load()

    def _load(self) -> _Contexts:
        looked, self._loaded = self._found, None  # what raises here is tried again, whether a file changes or not
        problems: list[str] = []
        self._read_authorities(problems)
        found = self._source.load()
        problems += found.problems
        pairs = self._usable(found.pairs, problems)
        contexts = self._choose_pairs(pairs, problems)
        self._pairs = pairs
        if not found.retry:
            self._loaded = looked
        return contexts

    def _read_authorities(self, problems: list[str]) -> None:
        if self._client_ca is None:
            return
        try:
            authorities = read_certificates(self._client_ca)
        except ConfigError as error:
            if not self._authorities:
                raise
            problems.append(str(error))
            return
        if authorities != self._authorities:
            self._authorities = authorities
            self._made = {}

    def _usable(self, pairs: Sequence[Pair], problems: list[str]) -> list[Pair]:
        """The pairs that OpenSSL accepts; for another one, what was served from the same file."""
        usable = []
        for pair in pairs:
            try:
                self._context((pair,))
            except ConfigError as error:
                problems.append(str(error))
                usable += [old for old in self._pairs if _same_place(old, pair)]
            else:
                usable.append(pair)
        if not usable:
            raise ConfigError(problems[-1])
        return usable

    def _choose_pairs(self, pairs: Sequence[Pair], problems: Sequence[str]) -> _Contexts:
        by_name: dict[str, dict[type, Pair]] = defaultdict(dict)
        # Of two certificates for one name and kind of key, the one that expires later: it is put in last.
        for pair in sorted(pairs, key=lambda each: each.certificate.not_valid_after_utc):
            for name in pair.names:
                by_name[name][type(pair.key)] = pair
        by_path: dict[Path, dict[type, Pair]] = defaultdict(dict)
        for pair in pairs:
            by_path[pair.path][type(pair.key)] = pair

        def siblings(pair: Pair) -> dict[type, Pair]:
            """The pairs to offer where this one is chosen: those with other kinds of keys for a name of it, too."""
            found: dict[type, Pair] = {}
            for name in pair.names:
                found = by_name[name] | found
            return found | by_path[pair.path] | {type(pair.key): pair}

        chosen = dict(by_name)
        for pair in pairs:
            chosen.setdefault(pair.path.stem.lower(), siblings(pair))
        made, self._made = self._made, {}

        def context(offered: Mapping[type, Pair]) -> SSL.Context:
            key = tuple(offered[kind] for kind in sorted(offered, key=repr))
            if key not in self._made:
                self._made[key] = made.get(key) or self._context(key)
            return self._made[key]

        return _Contexts(
            {name: context(offered) for name, offered in chosen.items()},
            context(siblings(pairs[0])),
            problems,
            {pair.path.stem: _expiry(pair) for pair in pairs if not pair.names}
            | {name: min(map(_expiry, offered.values())) for name, offered in by_name.items()},
        )

    def _context(self, pairs: _Pairs) -> SSL.Context:
        if pairs in self._made:
            return self._made[pairs]
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(_OPTIONS)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(self._session_id)
        context.set_tlsext_servername_callback(self._choose)
        context.set_alpn_select_callback(_select_protocol)
        if self._authorities:
            store = context.get_cert_store()
            assert store is not None
            for each in self._authorities:
                store.add_cert(crypto.X509.from_cryptography(each))
                context.add_client_ca(each)
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # trust an intermediate authority too
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        for pair in pairs:
            try:
                context.use_certificate(pair.certificate)
                context.use_privatekey(pair.key)
            except SSL.Error:
                raise ConfigError("OpenSSL rejects this key and certificate", value=pair.path) from None
        # One list for all pairs: pyOpenSSL cannot set one for each. A client passes over what it does not need.
        for certificate in dict.fromkeys(each for pair in pairs for each in pair.chain):
            context.add_extra_chain_cert(certificate)
        context.set_cipher_list(_CIPHERS)
        self._made[pairs] = context
        return context

    # Called by OpenSSL during a handshake

    def _choose(self, connection: SSL.Connection) -> None:
        """Choose the certificate, with or without a server name."""
        by_name = self._contexts.by_name
        name = (connection.get_servername() or b"").decode("latin-1").lower()
        context = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)


def _expiry(pair: Pair) -> float:
    return pair.certificate.not_valid_after_utc.timestamp()


def _same_place(old: Pair, new: Pair) -> bool:
    return old.path == new.path and type(old.key) is type(new.key)


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """The first protocol of the factory that the client offers too (RFC 7301, ALPN); most factories name none."""
    negotiating = IProtocolNegotiationFactory(connection.get_app_data().factory.wrappedFactory, None)
    spoken = negotiating.acceptableProtocols() if negotiating is not None else ()
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)
