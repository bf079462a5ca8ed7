"""Why TLS was not agreed: the alerts of the far end and OpenSSL's reasons in words, with likely causes. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from greetsvc.net.tls.connection import CLOSED_EARLY

__all__ = ["ALERTS", "ALERT_CAUSES", "CLOSED", "alert_cause", "reason_of_openssl", "tls_words"]

CLOSED = "the far end closed while TLS was being agreed"


class Alert(NamedTuple):
    """What an alert says, from our side, and its likely cause."""

    words: str
    cause: str


_DAMAGED = "a fault of one of the two TLS libraries, or something on the way changes what is sent"
_OUR_CHAIN = "--cert is of an authority that the far end does not know, or lacks its intermediate certificates"
_OURS_OR_NONE = "it wants a client certificate (--cert), or does not accept the one that --cert gave"
_OUR_KIND = "the far end has a rule for client certificates (kind of key, purpose, subject) that --cert does not meet"
_OUR_CERTIFICATE = "--cert names a certificate that has to be renewed, or the far end's clock is wrong"
_WANTS_CERTIFICATE = "it wants a client certificate (--cert) of an authority that it trusts"
_OUR_OFFER = (
    "the far end shares no version or cipher with us, or (before TLS 1.3) wants a client certificate (--cert)"
)
_OLD = "the far end speaks only versions of TLS before 1.2, which greet does not"
_NAME = "the far end does not serve the name that we ask for, or wants one where we ask an address: --sni names it"
_THEIR_FAULT = (
    "a fault of the far end, whose log says more; some servers say so if they do not serve the name (--sni)"
)
_BROKEN_OFF = "the far end was stopped, or somebody there ended it"
_NOT_OURS = "the far end expects something that greet does not do: another protocol, or keys agreed beforehand"
_PLAIN = "a plain listener, or a PROXY header is expected on that port first"
_NO_USE = "a plain listener that has no use for it, or a load balancer with no live server behind it"
_THEIR_KEYS = "an old or carelessly set up server: it needs longer keys and newer signatures"

ALERTS = {
    "unexpected message": Alert("it did not expect what we sent", _DAMAGED),
    "bad record mac": Alert("what it received was damaged", _DAMAGED),
    "decryption failed": Alert("what it received was damaged", _DAMAGED),
    "record overflow": Alert("what it received was too long", _DAMAGED),
    "decompression failure": Alert("what it received could not be decompressed", _DAMAGED),
    "handshake failure": Alert("we have nothing in common that both accept", _OUR_OFFER),
    "no certificate": Alert("it wants a client certificate", _WANTS_CERTIFICATE),
    "bad certificate": Alert("our certificate is missing or not valid for it", _OURS_OR_NONE),
    "unsupported certificate": Alert("it does not take certificates like ours", _OUR_KIND),
    "certificate revoked": Alert("our certificate has been revoked", _OUR_CERTIFICATE),
    "certificate expired": Alert("our certificate has expired or is not valid yet", _OUR_CERTIFICATE),
    "certificate unknown": Alert("it does not accept our certificate, and does not say why", _OUR_KIND),
    "illegal parameter": Alert("what we sent makes no sense to it", _DAMAGED),
    "unknown ca": Alert("it does not know the authority of our certificate", _OUR_CHAIN),
    "access denied": Alert("our certificate is valid, and may not come in", _OUR_KIND),
    "decode error": Alert("it cannot read what we sent", _DAMAGED),
    "decrypt error": Alert("our signature or key exchange is wrong for it", _DAMAGED),
    "export restriction": Alert("our keys are too long for it", _OLD),
    "protocol version": Alert("it does not speak our versions of TLS, 1.2 and 1.3", _OLD),
    "insufficient security": Alert("our ciphers are too weak for it", _OUR_OFFER),
    "internal error": Alert("it has a fault of its own", _THEIR_FAULT),
    "inappropriate fallback": Alert("we offered less than we can", _DAMAGED),
    "user cancelled": Alert("it was told to stop", _BROKEN_OFF),
    "no renegotiation": Alert("it does not agree on TLS a second time", _BROKEN_OFF),
    "missing extension": Alert("it misses an extension in what we sent", _NOT_OURS),
    "unsupported extension": Alert("we sent an extension that it did not ask for", _DAMAGED),
    "certificate unobtainable": Alert("it cannot fetch our certificate", _OUR_KIND),
    "unrecognized name": Alert("it does not know the name that we asked for", _NAME),
    "bad certificate status response": Alert("it does not accept the proof that our certificate stands", _OUR_KIND),
    "bad certificate hash value": Alert("our certificate is not the one that it fetched", _OUR_KIND),
    "unknown psk identity": Alert("it wants a key agreed beforehand", _NOT_OURS),
    "certificate required": Alert("it wants a client certificate, and we have shown none", _WANTS_CERTIFICATE),
    "no application protocol": Alert("it speaks none of our application protocols (ALPN)", _NOT_OURS),
}
"""The alerts that OpenSSL can name (RFC 8446 6, RFC 5246 7.2, RFC 6066 9), in its spelling."""

_UNKNOWN_ALERT = Alert("an alert that is not known here", _DAMAGED)

_REASONS = {
    **dict.fromkeys(
        ("wrong version number", "packet length too long", "record layer failure", "http request", "record overflow"),
        Alert("the far end does not speak TLS", _PLAIN),
    ),
    "unsupported protocol": Alert("the far end speaks none of our versions of TLS, 1.2 and 1.3", _OLD),
    **dict.fromkeys(
        ("dh key too small", "ee key too small", "ca key too small", "ca md too weak"),
        Alert("the far end's keys or signatures are too weak", _THEIR_KEYS),
    ),
    CLOSED_EARLY: Alert(CLOSED, _NO_USE),
    "unsafe legacy renegotiation disabled": Alert("the far end's TLS is too old to be safe (RFC 5746)", _THEIR_KEYS),
}
"""What OpenSSL itself finds wrong with the far end."""

_REFUSED = "the far end refused: "
_RECEIVED = re.compile(r"(?:tls|sslv3|tlsv1|tlsv13|ssl/tls)( alert)? (.+)")
"""How OpenSSL 3 and 4 begin the reason that stands for a received alert; some lack the word."""

_FAILED = Alert("TLS failed", _DAMAGED)
_CAUSES = {each.words: each.cause for each in (*_REASONS.values(), _FAILED)}
ALERT_CAUSES = {*_CAUSES.values(), *(each.cause for each in (*ALERTS.values(), _UNKNOWN_ALERT))}
"""All likely causes, for the test of docs/verdicts.md."""


def reason_of_openssl(error: BaseException) -> str:
    """OpenSSL's own text for an error: its last reason. Empty for an alert that OpenSSL cannot name."""
    reasons = error.args[0] if error.args else None
    if isinstance(reasons, list):
        return str(reasons[-1][-1]) if reasons else "no reason given"
    return str(error) or type(error).__name__


def tls_words(error: BaseException, *, agreed: bool = False) -> str:
    """Why TLS was not agreed, or broke after it was ``agreed``, in words."""
    reason = reason_of_openssl(error)
    if not reason:
        return f"{_REFUSED}{_UNKNOWN_ALERT.words}"
    received = _RECEIVED.fullmatch(reason)
    if received and received[2] in ALERTS:
        return f"{_REFUSED}{received[2]} ({ALERTS[received[2]].words})"
    if received and received[1]:
        return f"{_REFUSED}{received[2]}"
    found = _FAILED if agreed else _REASONS.get(reason, _FAILED)
    return f"{found.words} ({reason})"


def alert_cause(words: str) -> str:
    """The likely cause of what `tls_words` said; empty for other words."""
    found = words.partition(" (")[0]
    if not found.startswith(_REFUSED):
        return _CAUSES.get(found, "")
    return ALERTS.get(found.removeprefix(_REFUSED), _UNKNOWN_ALERT).cause
