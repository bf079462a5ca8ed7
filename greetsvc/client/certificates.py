"""Why the far end's certificate is not accepted: which one of its chain, what is wrong, and the likely cause."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from greetsvc.client.names import AlternativeNames, address_of, alternative_names, is_for
from greetsvc.printable import escaped

if TYPE_CHECKING:
    from cryptography.x509 import Name
    from OpenSSL.crypto import X509

__all__ = ["CERTIFICATE_CAUSES", "UNUSED", "VERIFY_ERRORS", "certificate_cause", "rejection"]

_NAMELESS = "somebody without a name"
_FEW = 5
_LONG = 64
"""How many names of a certificate are told, and how many characters of each: all of them are foreign text."""


class VerifyError(NamedTuple):
    """What is wrong with a certificate, as the end of a sentence about it, and the likely cause.

    ``above`` is the cause if it is not the server's own certificate but one above it in the chain.
    """

    words: str
    cause: str
    above: str = ""


_MADE_WRONG = "a mistake of whoever made the certificate: it has to be issued again"
_NEW_KEY = (
    "the chain that the server sends does not fit: its authority has a new key, or the file was put together wrongly"
)
_WEAK = "an old certificate: it has to be issued again, with a longer key or a newer signature"
_NOT_AN_AUTHORITY = "somebody signed with a certificate that may not sign: the right authority has to issue it again"
_NAME_RULES = (
    "that authority may sign only for other names: one that may sign for this name has to issue the certificate"
)
_NOT_SUPPORTED = (
    "the certificate uses something rare that OpenSSL does not know: it has to be issued again without it"
)
_STORE = "the list of trusted authorities on this host says so: see who changed it"
_OUR_SIDE = "a fault on this host: not enough memory, or a list of authorities that cannot be read"
_UNKNOWN = "a private authority (--ca names it), or the server does not send its intermediate certificates"
_PRIVATE = "a private authority (--ca names it), or the list of authorities on this host is old"
_CLOCK = "our clock is behind, or the certificate was made on a host whose clock is ahead"
_PURPOSE = "a certificate for clients or for mail, say, was given to the server"

_NOT_YET = 9

VERIFY_ERRORS = {
    1: VerifyError("does not verify, and OpenSSL does not say why", _MADE_WRONG),
    2: VerifyError("is signed by an authority whose own certificate is missing", _PRIVATE),
    4: VerifyError("has a signature that cannot be read", _MADE_WRONG),
    6: VerifyError("is signed by an authority whose public key cannot be read", _MADE_WRONG),
    7: VerifyError("has a wrong signature", _NEW_KEY),
    _NOT_YET: VerifyError("is not valid yet", _CLOCK),
    10: VerifyError(
        "has expired",
        "the certificate was not renewed, or the server was not told to read the new one; or our clock is wrong",
        "the server sends an old chain, or --ca names an old authority: put the new one in; or our clock is wrong",
    ),
    13: VerifyError("has a start date that cannot be read", _MADE_WRONG),
    14: VerifyError("has an end date that cannot be read", _MADE_WRONG),
    17: VerifyError("could not be checked: there was not enough memory", _OUR_SIDE),
    18: VerifyError(
        "is self-signed and not trusted",
        "it is meant for tests, or something on the way opens TLS; --ca trusts exactly this one",
    ),
    19: VerifyError(
        "is not trusted",
        "a private authority, or something on the way opens TLS: --ca names the authority to trust",
    ),
    20: VerifyError("is signed by an unknown authority", _UNKNOWN, _PRIVATE),
    21: VerifyError("is signed by an unknown authority", _UNKNOWN, _PRIVATE),
    22: VerifyError(
        "stands at the end of a chain that is too long", "the server sends certificates that do not belong"
    ),
    24: VerifyError("is signed by an authority that has no public key", _MADE_WRONG),
    25: VerifyError("allows fewer intermediate certificates below it", _NOT_AN_AUTHORITY),
    26: VerifyError("is not meant for servers", _PURPOSE, _NOT_AN_AUTHORITY),
    27: VerifyError("is not trusted for servers", _STORE),
    28: VerifyError("is marked as rejected", _STORE),
    32: VerifyError("is signed by a certificate that may not sign others", _NOT_AN_AUTHORITY),
    34: VerifyError("has a critical extension that OpenSSL does not know", _NOT_SUPPORTED),
    40: VerifyError("is a proxy certificate, which is not allowed", _PURPOSE),
    41: VerifyError("has an extension that is not valid", _MADE_WRONG),
    46: VerifyError("is for IP address blocks that its authority does not have", _NAME_RULES),
    47: VerifyError("is for a name that its authority may not sign", _NAME_RULES),
    48: VerifyError("is for a name that its authority is forbidden to sign", _NAME_RULES),
    49: VerifyError("has name constraints with a feature that OpenSSL does not know", _NOT_SUPPORTED),
    51: VerifyError("has name constraints of a kind that OpenSSL does not know", _NOT_SUPPORTED),
    52: VerifyError("has name constraints that are not valid", _MADE_WRONG),
    53: VerifyError("has a name that is not valid, where its authority limits the names", _MADE_WRONG),
    55: VerifyError("has a chain that goes round in a circle", _NEW_KEY),
    66: VerifyError("has a key that is too weak", _WEAK),
    67: VerifyError("has a key that is too weak for an authority", _WEAK),
    68: VerifyError("has a signature that is too weak", _WEAK),
    69: VerifyError("could not be checked: OpenSSL was called wrongly", _OUR_SIDE),
    70: VerifyError("could not be checked: the list of authorities cannot be read", _OUR_SIDE),
    76: VerifyError("has a signature of a kind that OpenSSL does not know", _NOT_SUPPORTED),
    77: VerifyError("has a signature that its issuer's key cannot have made", _NEW_KEY),
    78: VerifyError("names two kinds of signature", _MADE_WRONG),
    79: VerifyError("is used as an authority, but is none", _NOT_AN_AUTHORITY),
    94: VerifyError("has a key with parameters of its own instead of a named curve", _MADE_WRONG),
}
"""X509_V_ERR_* of OpenSSL (x509_vfy.h) as predicates of the certificate that it stops at."""

UNUSED = {
    *(3, 5, 8, 11, 12, 15, 16, 23, 33, 35, 36, 44, 45, 54),  # revocation: no X509_V_FLAG_CRL_CHECK
    *(29, 30, 31),  # no longer reported, since OpenSSL 1.1
    *(37, 38, 39, 72),  # proxy certificates: no X509_V_FLAG_ALLOW_PROXY_CERTS
    *(42, 43),  # policies: no X509_V_FLAG_POLICY_CHECK
    *(50, 62, 63, 64),  # names are compared here, not by OpenSSL
    *range(56, 62),  # Suite B: no X509_V_FLAG_SUITEB_*
    *(65, 71, 95),  # DANE, certificate transparency, raw public keys
    *(73, 74, 75, *range(96, 101)),  # OCSP
    *(*range(80, 94), 102, 103),  # no X509_V_FLAG_X509_STRICT
}
"""The X509_V_ERR_* that need a feature that is not turned on. They are told by number."""

_WRONG_NAME = (
    "the name is mistyped, or that server presents another site's certificate: --sni names the one to ask for"
)
_CAUSES = {each.words: each for each in VERIFY_ERRORS.values()}
CERTIFICATE_CAUSES = {_WRONG_NAME, *(cause for each in _CAUSES.values() for cause in each[1:] if cause)}
"""All likely causes, for the test of docs/verdicts.md."""

_OWN, _BETWEEN, _ROOT = "the server's certificate", "an intermediate certificate", "the authority's certificate"


def rejection(certificate: X509, number: int, depth: int, host: str) -> str:
    """Why a certificate is not accepted, as one line; empty if it is.

    ``number`` is OpenSSL's X509_V_ERR_* or 0, ``depth`` its place above the server's own in the chain. Where OpenSSL
    has no objection to the server's own (depth 0), its names are compared with ``host``.
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
    role = _OWN if depth == 0 else _ROOT if facts.own else _BETWEEN
    what = _for_whom(names, facts.subject) if depth == 0 else f"it is {facts.subject or _NAMELESS}"
    by = "itself" if facts.own else facts.issuer or _NAMELESS
    since = f"from {facts.begins} " if number == _NOT_YET else ""
    return f"{role} {words}: {what}, issued by {by}, valid {since}until {facts.ends}"


def certificate_cause(words: str) -> str:
    """The likely cause of what `rejection` said; empty for other words.

    Only the beginning counts, up to the colon: what comes after it is the far end's own text.
    """
    if words.startswith(f"{_OWN} is not for "):
        return _WRONG_NAME
    head = words.partition(": it is ")[0]
    for role in (_OWN, _BETWEEN, _ROOT):
        found = _CAUSES.get(head.removeprefix(f"{role} ")) if head.startswith(role) else None
        if found:
            return found.cause if role == _OWN else found.above or found.cause
    return ""


def _names(certificate: X509) -> AlternativeNames:
    from OpenSSL.crypto import FILETYPE_ASN1, dump_certificate

    return alternative_names(dump_certificate(FILETYPE_ASN1, certificate))


def _for_whom(names: AlternativeNames, subject: str) -> str:
    told = [*map(_dns, names.dns), *map(str, names.addresses)]
    if not told:
        return "it is for no host" + (f" (its common name, {subject}, does not count)" if subject else "")
    more = f" and {len(told) - _FEW} more" if len(told) > _FEW else ""
    return f"it is for {', '.join(told[:_FEW])}{more}"


def _dns(name: str) -> str:
    return f"{_short(name)} (as a name, not as an address)" if address_of(name) else _short(name)


def _short(text: str) -> str:
    text = escaped(text)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


@frozen
class _Facts:
    """What is told of a certificate, where it can be read."""

    subject: str = ""
    issuer: str = ""
    own: bool = False
    begins: str = "a date that cannot be read"
    ends: str = "a date that cannot be read"


def _facts(certificate: X509) -> _Facts:
    with warnings.catch_warnings(), suppress(Exception):  # OpenSSL is waiting: nothing may be raised into it
        warnings.simplefilter("ignore")  # cryptography's, of a serial number of zero and the like
        found = certificate.to_cryptography()
        return _Facts(
            _common_name(found.subject),
            _common_name(found.issuer),
            found.subject == found.issuer,
            f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        )
    return _Facts()  # cryptography refuses some certificates that OpenSSL reads


def _common_name(name: Name) -> str:
    """What a person calls the subject or the issuer."""
    from cryptography.x509.oid import NameOID

    for part in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME):
        for found in name.get_attributes_for_oid(part):
            return _short(str(found.value))
    return ""
