"""Why TLS failed: alerts of the server and OpenSSL's own reasons in words, with likely causes. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from greetsvc.net.tls.connection import CLOSED_EARLY

__all__ = ["ALERTS", "TLS_CLOSED", "alert_cause", "reason_of_openssl", "tls_words"]

TLS_CLOSED = "the server closed during the TLS handshake"


class Reason(NamedTuple):
    """Why TLS failed, in words, and the likely cause."""

    words: str
    cause: str


_DAMAGED = "a fault in one of the two TLS libraries, or something on the path changes the data"
_UNKNOWN_CA = "the server does not know the authority of --cert, or --cert lacks its intermediate certificates"
_BAD_CERTIFICATE = "it requires a client certificate (--cert), or does not accept the one of --cert"
_NOT_ALLOWED = (
    "the server has a rule for client certificates (kind of key, purpose, subject) that --cert does not meet"
)
_NOT_CURRENT = "the certificate of --cert must be renewed, or the server's clock is wrong"
_REQUIRED = "it requires a client certificate (--cert) from an authority that it trusts"
_NOTHING_SHARED = (
    "it shares no TLS version or cipher with us, or (before TLS 1.3) requires a client certificate (--cert)"
)
_OLD_VERSION = "the server supports only TLS versions before 1.2, which greet does not"
_SERVER_NAME = "the server does not serve the name of the target, or requires a name: --sni sets the name to ask for"
_THEIR_FAULT = "a fault of the server, see its log; some servers send this if they do not serve the name (--sni)"
_STOPPED = "the server was stopped"
_UNSUPPORTED = "the server requires something that greet does not do: another protocol or a pre-shared key"
_NO_TLS = "a listener without TLS, or one that expects a PROXY header first"
_NO_SERVER = "a listener without TLS, or a load balancer with no live server"
_OTHER_KEY = (
    f"an authority of our certificate has got a new key, and the server knows it with the other one; or {_DAMAGED}"
)
_WEAK_SERVER = "an old or badly configured server: it needs longer keys and newer signatures"

ALERTS = {
    "unexpected message": Reason("it did not expect what we sent", _DAMAGED),
    "bad record mac": Reason("it received damaged data", _DAMAGED),
    "decryption failed": Reason("it received damaged data", _DAMAGED),
    "record overflow": Reason("it received a record that is too long", _DAMAGED),
    "decompression failure": Reason("it could not decompress what we sent", _DAMAGED),
    "handshake failure": Reason("it found no parameters that both ends accept", _NOTHING_SHARED),
    "no certificate": Reason("it requires a client certificate", _REQUIRED),
    "bad certificate": Reason("our certificate is missing or not valid", _BAD_CERTIFICATE),
    "unsupported certificate": Reason("it does not support this kind of certificate", _NOT_ALLOWED),
    "certificate revoked": Reason("our certificate has been revoked", _NOT_CURRENT),
    "certificate expired": Reason("our certificate has expired or is not valid yet", _NOT_CURRENT),
    "certificate unknown": Reason("it does not accept our certificate, and does not say why", _NOT_ALLOWED),
    "illegal parameter": Reason("we sent a value that is not allowed", _DAMAGED),
    "unknown ca": Reason("it does not know the authority of our certificate", _UNKNOWN_CA),
    "access denied": Reason("our certificate is valid but not allowed", _NOT_ALLOWED),
    "decode error": Reason("it cannot read what we sent", _DAMAGED),
    "decrypt error": Reason("it could not verify our signature or key exchange", _OTHER_KEY),
    "export restriction": Reason("our keys are longer than it allows", _OLD_VERSION),
    "protocol version": Reason("it does not support our TLS versions, 1.2 and 1.3", _OLD_VERSION),
    "insufficient security": Reason("our ciphers are too weak for it", _NOTHING_SHARED),
    "internal error": Reason("it has a fault of its own", _THEIR_FAULT),
    "inappropriate fallback": Reason("we offered a lower version than it expects", _DAMAGED),
    "user cancelled": Reason("it cancelled the handshake", _STOPPED),
    "no renegotiation": Reason("it does not allow a second handshake", _STOPPED),
    "missing extension": Reason("it requires an extension that we did not send", _UNSUPPORTED),
    "unsupported extension": Reason("we sent an extension that it did not ask for", _DAMAGED),
    "certificate unobtainable": Reason("it could not fetch our certificate", _NOT_ALLOWED),
    "unrecognized name": Reason("it does not know the server name that we sent", _SERVER_NAME),
    "bad certificate status response": Reason("it does not accept the OCSP status of our certificate", _NOT_ALLOWED),
    "bad certificate hash value": Reason("our certificate is not the one that it fetched", _NOT_ALLOWED),
    "unknown psk identity": Reason("it requires a pre-shared key", _UNSUPPORTED),
    "certificate required": Reason("it requires a client certificate, and we sent none", _REQUIRED),
    "no application protocol": Reason("it supports none of our application protocols (ALPN)", _UNSUPPORTED),
}
"""The alerts that OpenSSL can name (RFC 8446 6, RFC 5246 7.2, RFC 6066 9), in its spelling."""

_UNKNOWN_ALERT = Reason("an unknown alert", _DAMAGED)

_OPENSSL_REASONS = {
    **dict.fromkeys(
        ("wrong version number", "packet length too long", "record layer failure", "http request", "record overflow"),
        Reason("the server does not speak TLS", _NO_TLS),
    ),
    **dict.fromkeys(
        ("dh key too small", "ee key too small", "ca key too small", "ca md too weak"),
        Reason("the server's keys or signatures are too weak", _WEAK_SERVER),
    ),
    "unsupported protocol": Reason("the server supports none of our TLS versions, 1.2 and 1.3", _OLD_VERSION),
    "unsafe legacy renegotiation disabled": Reason(
        "the server's TLS is too old to be safe", _WEAK_SERVER
    ),  # RFC 5746
    CLOSED_EARLY: Reason(TLS_CLOSED, _NO_SERVER),
}
"""What OpenSSL itself finds wrong with the server during the handshake."""

_FAILED = Reason("TLS failed", _DAMAGED)
_CAUSES = {each.words: each.cause for each in (*_OPENSSL_REASONS.values(), _FAILED)}

_REFUSED = "the server refused: "
_RECEIVED = re.compile(r"(?:tls|sslv3|tlsv1|tlsv13|ssl/tls)( alert)? (.+)")
"""How OpenSSL 3 and 4 write the reason for an alert that was received; some lack the word ``alert``."""


def reason_of_openssl(error: BaseException) -> str:
    """OpenSSL's own text for an error: its last reason. Empty for an alert that OpenSSL cannot name."""
    reasons = error.args[0] if error.args else None
    if isinstance(reasons, list):
        return str(reasons[-1][-1]) if reasons else "no reason given"
    return str(error) or type(error).__name__


def tls_words(error: BaseException, *, handshake_done: bool = False) -> str:
    """Why the handshake failed, or TLS after it, in words."""
    reason = reason_of_openssl(error)
    if not reason:
        return f"{_REFUSED}{_UNKNOWN_ALERT.words}"
    received = _RECEIVED.fullmatch(reason)
    if received and received[2] in ALERTS:
        return f"{_REFUSED}{received[2]} ({ALERTS[received[2]].words})"
    if received and received[1]:
        return f"{_REFUSED}{received[2]}"
    found = _FAILED if handshake_done else _OPENSSL_REASONS.get(reason, _FAILED)
    return f"{found.words} ({reason})"


def alert_cause(words: str) -> str:
    """The likely cause of what `tls_words` returned; empty for other words."""
    found = words.partition(" (")[0]
    if not found.startswith(_REFUSED):
        return _CAUSES.get(found, "")
    return ALERTS.get(found.removeprefix(_REFUSED), _UNKNOWN_ALERT).cause
