"""Host names: their form in DNS, and whether a certificate is for one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

__all__ = ["AlternativeNames", "address_of", "alternative_names", "host_name", "is_for"]

_MAX_LENGTH = 253
"""Characters of a name in DNS, without a dot at its end (RFC 1035 2.3.4: 255 bytes with their length octets)."""

_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_DOTS = re.compile("[.\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH FULL STOP}\N{HALFWIDTH IDEOGRAPHIC FULL STOP}]")
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"

_LABEL = r"[a-z0-9_-]{1,63}"
_PATTERN = re.compile(rf"(?:\*\.{_LABEL}\.)?{_LABEL}(?:\.{_LABEL})*")
"""A DNS name in a certificate: exact, or with ``*`` as the whole first label and two more (RFC 9525 6.3)."""

_SUBJECT_ALT_NAME = b"\x55\x1d\x11"
_SEQUENCE, _OBJECT_ID, _OCTETS, _EXTENSIONS, _DNS_NAME, _IP_ADDRESS = 0x30, 0x06, 0x04, 0xA3, 0x82, 0x87


def host_name(text: str) -> str:
    """The ASCII form of a host name, for DNS and TLS.

    It follows UTS 46 without transitional processing, as browsers do: ``straße.example`` is a host of its own. IDNA
    2003 turns it into ``strasse.example``, and is used only for a label that UTS 46 refuses.

    :raises ValueError: if it is not a host name.
    """
    name = ""
    if len(text) <= _MAX_LENGTH + 1:  # checked first: the conversion takes more than linear time
        with suppress(UnicodeError):
            name = text if text.isascii() else ".".join(map(_label, _DOTS.split(text)))
    if not _HOST.fullmatch(name) or len(name.removesuffix(".")) > _MAX_LENGTH:
        raise ValueError("not a host name")
    return name


def _label(label: str) -> str:
    from encodings.idna import ToASCII

    import idna  # loading its tables takes 10 ms, and most names are ASCII

    try:
        mapped = idna.uts46_remap(label, std3_rules=False, transitional=False)
        if mapped.isascii():
            return mapped
        # What UTS 46 4.1 requires. idna.alabel requires more: it refuses emoji and underscores.
        if mapped.startswith("xn--"):
            raise idna.IDNAError("an encoded label that is not ASCII")
        idna.check_initial_combiner(mapped)
        idna.check_bidi(mapped)
        if not all(idna.valid_contextj(mapped, at) for at, char in enumerate(mapped) if char in _JOINERS):
            raise idna.IDNAError("a joiner where none may be")
    except ValueError:  # idna's own error, or its "unknown character"
        return ToASCII(label).decode("ascii")
    return f"xn--{mapped.encode('punycode').decode('ascii')}"


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is, without its zone; None for a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


class AlternativeNames(NamedTuple):
    """The DNS names and IP addresses that a certificate was issued for; entries of other kinds are left out."""

    dns: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()


def is_for(names: AlternativeNames, host: str) -> bool:
    """Whether the certificate is for this host.

    An address is compared with addresses and a name with names, as RFC 9525 6 says. Entries that cannot be a pattern,
    such as ``*.com`` or ``a.*.com``, are ignored. The subject's common name does not count.
    """
    address = address_of(host)
    if address is not None:
        return address in names.addresses
    wanted = host.removesuffix(".").lower()
    patterns = {name.lower() for name in names.dns if _PATTERN.fullmatch(name.lower())}
    first, _, rest = wanted.partition(".")
    return wanted in patterns or (first != "" and f"*.{rest}" in patterns)


def alternative_names(certificate: bytes) -> AlternativeNames:
    """The subject alternative names of a certificate in DER (RFC 5280 4.2.1.6).

    The libraries refuse all names if one is not valid: ``cryptography`` for an address of five bytes,
    ``service_identity`` for ``*.localhost``.
    """
    dns: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for kind, value in _general_names(certificate):
        if kind == _DNS_NAME:
            dns.append(value.decode("ascii", "backslashreplace"))
        elif kind == _IP_ADDRESS and len(value) in (4, 16):
            addresses.append(ip_address(value))
    return AlternativeNames(tuple(dns), tuple(addresses))


def _general_names(certificate: bytes) -> Iterator[tuple[int, bytes]]:
    to_be_signed = _inside(_inside(certificate, _SEQUENCE), _SEQUENCE)
    for _, extension in _elements(_inside(_inside(to_be_signed, _EXTENSIONS), _SEQUENCE)):
        if _inside(extension, _OBJECT_ID) == _SUBJECT_ALT_NAME:
            yield from _elements(_inside(_inside(extension, _OCTETS), _SEQUENCE))


def _inside(data: bytes, tag: int) -> bytes:
    """The contents of the first element with this tag."""
    return next((contents for found, contents in _elements(data) if found == tag), b"")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the contents of each element in DER (X.690 8.1)."""
    at = 0
    while at + 2 <= len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        yield tag, data[at : at + size]
        at += size
