"""The header of the PROXY protocol, versions 1 and 2: parser and encoder, without sockets.

The specification is HAProxy's ``doc/proxy-protocol.txt``; comments name the section that a choice comes from.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import Literal, NamedTuple, TypeAlias

from twisted.internet import address

__all__ = ["LONGEST_V1", "LONGEST_V2", "ProxyHeader", "ProxyHeaderError", "ProxyParser", "encode_v1", "encode_v2"]

_Address: TypeAlias = address.IPv4Address | address.IPv6Address | address.UNIXAddress

LONGEST_V1 = 107
"""The longest line of version 1 in bytes, including CRLF (section 2.1)."""

LONGEST_V2 = 16 + 4096
"""The longest header of version 2 in bytes that is accepted.

The length field allows 65,535 bytes after the first 16. Addresses need at most 216; the rest is extensions, of which
a client's certificate is the largest. 4096 bytes are enough for one, and bound the memory that a proxy can use here.
"""

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_LINE = re.compile(rb"(TCP4|TCP6) ([0-9.]+|[0-9A-Fa-f:.]+) ([0-9.]+|[0-9A-Fa-f:.]+) (\d+) (\d+)")
_V1_PORT = re.compile(rb"0|[1-9]\d{0,4}")
_LOCAL, _PROXY = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM, _DGRAM = 1, 2
_ADDRESSES = {_INET: Struct("!4s4sHH"), _INET6: Struct("!16s16sHH"), _UNIX: Struct("!108s108s")}
_TLV_CRC32C = 0x03
_CASTAGNOLI = 0x82F63B78
"""The polynomial of CRC32c, bits reversed (RFC 4960 appendix B)."""


class ProxyHeaderError(ValueError):
    """The bytes are not a valid PROXY header. The text is the reason, one word."""


class ProxyHeader(NamedTuple):
    """The two addresses of the connection that the proxy accepted.

    Both are ``None`` if the header has none (LOCAL, UNKNOWN, UNSPEC): then those of the real connection count. An
    IPv4-mapped IPv6 address is given as IPv4.
    """

    version: Literal[1, 2]
    source: _Address | None = None
    destination: _Address | None = None


class ProxyParser:
    """Parses one header from fragments of any size.

    ``buffer`` has the part of a header that has been received: never more than the longest header.
    """

    def __init__(self) -> None:
        self.buffer = b""

    def feed(self, data: bytes) -> tuple[ProxyHeader, bytes] | None:
        """The header and the bytes that follow it, or ``None`` while the header is incomplete.

        Raises `ProxyHeaderError` as soon as the bytes cannot become a valid header.
        """
        received = self.buffer + data
        for start, read in ((_V1_START, _read_v1), (_V2_START, _read_v2)):
            if received[: len(start)] == start[: len(received)]:
                result = read(received)
                self.buffer = received if result is None else b""
                return result
        raise ProxyHeaderError("not-proxy")


def _read_v1(data: bytes) -> tuple[ProxyHeader, bytes] | None:
    """Section 2.1: one line of ASCII."""
    line, newline, rest = data[:LONGEST_V1].partition(b"\n")
    if not newline:
        if len(data) >= LONGEST_V1:
            raise ProxyHeaderError("oversize")
        return None
    if not line.endswith(b"\r"):
        raise ProxyHeaderError("malformed")
    rest += data[LONGEST_V1:]
    text = line[len(_V1_START) : -1]
    if text == b"UNKNOWN" or text.startswith(b"UNKNOWN "):
        return ProxyHeader(1), rest
    match = _V1_LINE.fullmatch(text)
    if match is None:
        raise ProxyHeaderError("malformed")
    family, *hosts, source_port, destination_port = match.groups()
    if not all(_V1_PORT.fullmatch(port) and int(port) <= 65535 for port in (source_port, destination_port)):
        raise ProxyHeaderError("address")
    try:
        source, destination = ((IPv4Address if family == b"TCP4" else IPv6Address)(host.decode()) for host in hosts)
    except AddressValueError:
        raise ProxyHeaderError("address") from None
    return ProxyHeader(1, _named(source, int(source_port)), _named(destination, int(destination_port))), rest


def _named(
    ip: IPv4Address | IPv6Address, port: int, kind: Literal["TCP", "UDP"] = "TCP"
) -> address.IPv4Address | address.IPv6Address:
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    known = address.IPv4Address if isinstance(ip, IPv4Address) else address.IPv6Address
    return known(kind, str(ip), port)


def _read_v2(data: bytes) -> tuple[ProxyHeader, bytes] | None:
    """Section 2.2: 16 bytes, the addresses, and extensions."""
    if len(data) >= 13 and (data[12] >> 4 != 2 or data[12] & 15 not in {_LOCAL, _PROXY}):
        raise ProxyHeaderError("command")
    if len(data) < 16:
        return None
    command, family, kind = data[12] & 15, data[13] >> 4, data[13] & 15
    end = 16 + int.from_bytes(data[14:16], "big")
    if end > LONGEST_V2:
        raise ProxyHeaderError("oversize")
    # The family of a LOCAL header is ignored, whatever its value (section 2.2).
    if command == _PROXY and (family > _UNIX or kind > _DGRAM):
        raise ProxyHeaderError("family")
    # Without a family it is unknown where the addresses end and the extensions begin: the whole block is skipped.
    addresses = None if command == _LOCAL or family == 0 or kind == 0 else _ADDRESSES[family]
    if addresses is not None and end < 16 + addresses.size:
        raise ProxyHeaderError("length")
    if len(data) < end:
        return None
    header, rest = data[:end], data[end:]
    if addresses is None:
        return ProxyHeader(2), rest
    _check_extensions(header, 16 + addresses.size)
    source, destination, *ports = addresses.unpack_from(header, 16)
    if family == _UNIX:
        return ProxyHeader(2, _unix(source), _unix(destination)), rest
    protocol: Literal["TCP", "UDP"] = "TCP" if kind == _STREAM else "UDP"
    ends = [_named(ip_address(ip), port, protocol) for ip, port in zip((source, destination), ports, strict=True)]
    return ProxyHeader(2, *ends), rest


def _unix(padded: bytes) -> address.UNIXAddress:
    """A path ends at its first NUL. An abstract name begins with NUL and ends at its last other byte (unix(7))."""
    if padded.startswith(b"\0"):
        return address.UNIXAddress(padded.rstrip(b"\0") or None)
    return address.UNIXAddress(padded.partition(b"\0")[0])


def _check_extensions(header: bytes, start: int) -> None:
    """Check that the type-length-value extensions fill the header exactly, and its checksum if it has one."""
    checksum_at = None
    while start < len(header):
        value = start + 3
        end = value + int.from_bytes(header[start + 1 : value], "big")
        if end > len(header) or value > len(header):
            raise ProxyHeaderError("tlv")
        if header[start] == _TLV_CRC32C:
            if checksum_at is not None or end - value != 4:
                raise ProxyHeaderError("tlv")
            checksum_at = value
        start = end
    if checksum_at is None:
        return
    # Section 2.2.3: over the whole header with zeros in place of the checksum, which is in network byte order.
    zeroed = header[:checksum_at] + bytes(4) + header[checksum_at + 4 :]
    if crc32c(zeroed) != int.from_bytes(header[checksum_at : checksum_at + 4], "big"):
        raise ProxyHeaderError("checksum")


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_entry, range(256)))


def crc32c(data: bytes) -> int:
    """The checksum that a header of version 2 may carry (section 2.2.3): a 32-bit unsigned number."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _one_family(*ends: tuple[str, int]) -> list[IPv4Address | IPv6Address]:
    for _, port in ends:
        if not 0 <= port <= 65535:
            raise ValueError(f"the port must be a number from 0 to 65535, not {port}")
    ips = [ip_address(host) for host, _ in ends]
    if any(isinstance(ip, IPv6Address) and ip.scope_id for ip in ips):
        raise ValueError("a PROXY header has no field for the scope of an IPv6 address")
    if len({ip.version for ip in ips}) == 1:
        return ips
    return [IPv6Address(f"::ffff:{ip}") if ip.version == 4 else ip for ip in ips]


def encode_v1(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """A header of version 1 for a TCP connection between two addresses (literals) and ports.

    If the families differ, the IPv4 address is mapped into IPv6. Raises `ValueError` for an invalid address or port.
    """
    first, second = _one_family(source, destination)
    return f"PROXY TCP{first.version} {first} {second} {source[1]} {destination[1]}\r\n".encode("ascii")


def encode_v2(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The same as `encode_v1` in version 2, without extensions."""
    first, second = _one_family(source, destination)
    family = _INET if first.version == 4 else _INET6
    block = _ADDRESSES[family].pack(first.packed, second.packed, source[1], destination[1])
    return _V2_START + bytes((2 << 4 | _PROXY, family << 4 | _STREAM)) + len(block).to_bytes(2, "big") + block
