"""Why we do not accept the server's certificate: which one of its chain, what is wrong, and the likely cause."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from greetsvc.client.names import AlternativeNames, address_of, alternative_names, is_for
from greetsvc.printable import escaped, shortened

if TYPE_CHECKING:
    from cryptography.x509 import Name
    from OpenSSL.crypto import X509

__all__ = ["VERIFY_ERRORS", "certificate_cause", "rejection"]

_NAMELESS = "an authority without a name"
_MAX_NAMES = 5
_MAX_LENGTH = 64
_HOST = re.compile(r"[A-Za-z0-9*_.-]+")
"""Names of a certificate in an error, and characters of each: they are foreign text."""


class VerifyError(NamedTuple):
    """What is wrong with a certificate, as the predicate of a sentence about it, and the likely cause.

    ``above`` is the cause if the certificate is not the server's own but one above it in the chain.
    """

    words: str
    cause: str
    above: str = ""


_MADE_WRONGLY = "the certificate was made wrongly: it must be issued again"
_WRONG_CHAIN = "the server's chain does not fit: its authority has a new key, or the file holds wrong certificates"
_WEAK = "an old certificate: it must be issued again, with a longer key or a newer signature"
_NO_AUTHORITY = "a certificate that may not sign others was used to sign: the right authority must issue it again"
_NAME_RULES = (
    "its authority may sign only for other names: one that may sign for this name must issue the certificate"
)
_UNSUPPORTED = "it uses a rare feature that OpenSSL does not support: it must be issued again without that"
_REJECTED_HERE = "the list of trusted authorities on this host says so: see who changed it"
_THIS_HOST = "a fault on this host: not enough memory, or a list of authorities that cannot be read"
_UNKNOWN = "a private authority (give its file with --ca), or the server does not send its intermediate certificates"
_NOT_TRUSTED = "a private authority (give its file with --ca), or the list of authorities on this host is old"
_CLOCK = "our clock is behind, or the certificate was made on a host whose clock is ahead"
_OTHER_PURPOSE = "the server uses a certificate that was made for another purpose, such as for clients or mail"

_NOT_YET = 9

VERIFY_ERRORS = {
    1: VerifyError("does not verify, and OpenSSL does not say why", _MADE_WRONGLY),
    2: VerifyError("is signed by an authority whose own certificate is missing", _NOT_TRUSTED),
    4: VerifyError("has a signature that cannot be read", _MADE_WRONGLY),
    6: VerifyError("is signed by an authority whose public key cannot be read", _MADE_WRONGLY),
    7: VerifyError("has a wrong signature", _WRONG_CHAIN),
    _NOT_YET: VerifyError("is not valid yet", _CLOCK),
    10: VerifyError(
        "has expired",
        "the certificate was not renewed, the server has not read the new one, or our clock is wrong",
        "the server sends an old chain, --ca gives an old authority, or our clock is wrong",
    ),
    13: VerifyError("has a start date that cannot be read", _MADE_WRONGLY),
    14: VerifyError("has an end date that cannot be read", _MADE_WRONGLY),
    17: VerifyError("could not be checked: there was not enough memory", _THIS_HOST),
    18: VerifyError(
        "is self-signed and not trusted",
        "a test certificate, or something on the path intercepts TLS; --ca trusts exactly this certificate",
    ),
    19: VerifyError(
        "is not trusted",
        "a private authority (give its file with --ca), or something on the path intercepts TLS",
    ),
    20: VerifyError("is signed by an unknown authority", _UNKNOWN, _NOT_TRUSTED),
    21: VerifyError("is signed by an unknown authority", _UNKNOWN, _NOT_TRUSTED),
    22: VerifyError("ends a chain that is too long", "the server sends certificates that do not belong to its chain"),
    24: VerifyError("is signed by an authority that has no public key", _MADE_WRONGLY),
    25: VerifyError("allows fewer intermediate certificates below it", _NO_AUTHORITY),
    26: VerifyError("is not meant for servers", _OTHER_PURPOSE, _NO_AUTHORITY),
    27: VerifyError("is not trusted for servers", _REJECTED_HERE),
    28: VerifyError("is marked as rejected", _REJECTED_HERE),
    32: VerifyError("is signed by a certificate that may not sign others", _NO_AUTHORITY),
    34: VerifyError("has a critical extension that OpenSSL does not support", _UNSUPPORTED),
    40: VerifyError("is a proxy certificate, which is not allowed", _OTHER_PURPOSE),
    41: VerifyError("has an extension that is not valid", _MADE_WRONGLY),
    46: VerifyError("is for IP address blocks that its authority does not have", _NAME_RULES),
    47: VerifyError("is for a name that its authority may not sign", _NAME_RULES),
    48: VerifyError("is for a name that its authority is forbidden to sign", _NAME_RULES),
    49: VerifyError("has name constraints with a feature that OpenSSL does not support", _UNSUPPORTED),
    51: VerifyError("has name constraints of a kind that OpenSSL does not support", _UNSUPPORTED),
    52: VerifyError("has name constraints that are not valid", _MADE_WRONGLY),
    53: VerifyError("has a name that is not valid, and its authority limits the names", _MADE_WRONGLY),
    55: VerifyError("is in a chain that is a loop", _WRONG_CHAIN),
    66: VerifyError("has a key that is too weak", _WEAK),
    67: VerifyError("has a key that is too weak for an authority", _WEAK),
    68: VerifyError("has a signature that is too weak", _WEAK),
    69: VerifyError("could not be checked: OpenSSL was called wrongly", _THIS_HOST),
    70: VerifyError("could not be checked: the list of authorities cannot be read", _THIS_HOST),
    76: VerifyError("has a signature algorithm that OpenSSL does not support", _UNSUPPORTED),
    77: VerifyError("has a signature algorithm that does not fit its issuer's key", _WRONG_CHAIN),
    78: VerifyError("names two different signature algorithms", _MADE_WRONGLY),
    79: VerifyError("is used as an authority but is not one", _NO_AUTHORITY),
    94: VerifyError("has an elliptic-curve key without a named curve", _MADE_WRONGLY),
}
"""X509_V_ERR_* of OpenSSL (x509_vfy.h). Those that need a feature which is not turned on are left out."""

_WRONG_NAME = (
    "the name is mistyped, or that server presents another site's certificate: --sni sets the name to ask for"
)
_BY_WORDS = {each.words: each for each in VERIFY_ERRORS.values()}

_OWN, _BETWEEN, _ROOT = "the server's certificate", "an intermediate certificate", "the authority's certificate"


def rejection(certificate: X509, number: int, depth: int, host: str) -> str:
    """Why a certificate is not accepted, as one line; empty if it is.

    ``number`` is OpenSSL's X509_V_ERR_*, or 0 if OpenSSL accepts it. ``depth`` is its place in the chain, 0 for the
    server's own, whose names are then compared with ``host``.
    """
    names = _names(certificate) if depth == 0 else AlternativeNames()
    if number:
        found = VERIFY_ERRORS.get(number)
        words = found.words if found else f"does not verify (X509_V_ERR {number})"
    elif depth == 0 and not is_for(names, host):
        words = f"is not for {host}"
    else:
        return ""
    facts = _facts(certificate)
    role = _OWN if depth == 0 else _ROOT if facts.self_issued else _BETWEEN
    what = _for_whom(names, facts.subject) if depth == 0 else f"it is {facts.subject or _NAMELESS}"
    by = "itself" if facts.self_issued else facts.issuer or _NAMELESS
    since = f"from {facts.begins} " if number == _NOT_YET else ""
    return f"{role} {words}: {what}, issued by {by}, valid {since}until {facts.ends}"


def certificate_cause(words: str) -> str:
    """The likely cause of what `rejection` returned; empty for other words.

    Only the part before the facts counts: they are the server's own text.
    """
    if words.startswith(f"{_OWN} is not for "):
        return _WRONG_NAME
    head = words.partition(": it is ")[0]
    for role in (_OWN, _BETWEEN, _ROOT):
        found = _BY_WORDS.get(head.removeprefix(f"{role} ")) if head.startswith(role) else None
        if found:
            return found.cause if role == _OWN else found.above or found.cause
    return ""


def _names(certificate: X509) -> AlternativeNames:
    from OpenSSL.crypto import FILETYPE_ASN1, dump_certificate

    return alternative_names(dump_certificate(FILETYPE_ASN1, certificate))


def _for_whom(names: AlternativeNames, subject: str) -> str:
    found = [*map(_dns, names.dns), *map(str, names.addresses)]
    if not found:
        return "it is for no host" + (f" (its subject, {subject}, does not count)" if subject else "")
    more = f" and {len(found) - _MAX_NAMES} more" if len(found) > _MAX_NAMES else ""
    return f"it is for {', '.join(found[:_MAX_NAMES])}{more}"


def _dns(name: str) -> str:
    """In quotes where it could be read as words of ours."""
    shown = _short(name) if _HOST.fullmatch(name) else f"'{_short(name)}'"
    return f"{shown} (as a name, not as an address)" if address_of(name) else shown


def _short(text: str) -> str:
    text = escaped(text)
    return shortened(text, _MAX_LENGTH)


@frozen
class _Facts:
    """What an error says about a certificate, as far as it can be read."""

    subject: str = ""
    issuer: str = ""
    self_issued: bool = False
    begins: str = "a date that cannot be read"
    ends: str = "a date that cannot be read"


def _facts(certificate: X509) -> _Facts:
    with warnings.catch_warnings(), suppress(Exception):  # the caller is C code: nothing may be raised into it
        warnings.simplefilter("ignore")  # from cryptography, of a serial number of zero for example
        found = certificate.to_cryptography()
        return _Facts(
            _name(found.subject),
            _name(found.issuer),
            found.subject == found.issuer,
            f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        )
    return _Facts()  # cryptography refuses some certificates that OpenSSL reads


def _name(name: Name) -> str:
    """A name for a person to read: the common name, or else the organization or its unit."""
    from cryptography.x509.oid import NameOID

    for part in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME):
        for found in name.get_attributes_for_oid(part):
            return _short(str(found.value))
    return ""
