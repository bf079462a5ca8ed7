"""What a packet looked like when it arrived: the SYN of a connection, its state, the header of a datagram.

Linux keeps the SYN of a connection for whoever asks on the listening socket (``TCP_SAVE_SYN``, since 4.2), tells the
state of a connection (``TCP_INFO``, tcp(7)), and hands out header fields of datagrams (ip(7), RFC 3542 4), all
without privilege. Elsewhere the readings are None.
"""

from __future__ import annotations

import socket
import struct
import sys

from attrs import evolve, frozen

__all__ = [
    "Arrival",
    "Syn",
    "TcpInfo",
    "ask_for_headers",
    "keep_syn",
    "parse_syn",
    "parse_tcp_info",
    "read_header",
    "read_syn",
    "read_tcp_info",
]

_LINUX = sys.platform == "linux"
_TCP_SAVE_SYN = 27
_TCP_SAVED_SYN = 28
_TCP_INFO = 11
_IP_RECVTOS = 13
_IP_RECVTTL = 12

_IPV6_BASE = 40
_EXTENSIONS = {0, 43, 60}  # hop-by-hop options, routing, destination options (RFC 8200 4)
_END, _NO_OPERATION, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _TIMESTAMPS = 0, 1, 2, 3, 4, 8


@frozen
class Syn:
    """The SYN that opened a connection: IP header fields and TCP options (RFC 9293 3.2, RFC 7323, RFC 2018).

    ``mss`` in bytes and ``wscale`` as a shift are None where the option was missing.
    """

    ttl: int
    dscp: int
    ecn: int
    mss: int | None
    wscale: int | None
    sack: bool
    timestamps: bool


@frozen
class TcpInfo:
    """A connection as its own end sees it: smoothed round trip in microseconds, MSS in bytes, retransmissions.

    ``advertised_mss`` is what this end said in its SYN, less the 12 bytes of timestamps once those are agreed on.
    """

    rtt_us: int
    mss: int
    retransmits: int
    advertised_mss: int
    timestamps: bool
    sack: bool
    wscale: bool


@frozen
class Arrival:
    """The header of a datagram: TTL or hop limit, and DSCP."""

    ttl: int | None = None
    dscp: int | None = None


def keep_syn(listening: socket.socket) -> None:
    """Have the kernel keep the SYN of each connection that this socket accepts, where it can."""
    if _LINUX and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)


def read_syn(sock: socket.socket) -> Syn | None:
    """The SYN of an accepted connection, once: the kernel forgets it then."""
    if not _LINUX or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    try:
        return parse_syn(sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, 512))
    except OSError:
        return None


def read_tcp_info(sock: socket.socket) -> TcpInfo | None:
    """The state of a connection."""
    if not _LINUX or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    try:
        return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 104))
    except OSError:
        return None


def parse_syn(packet: bytes) -> Syn | None:
    """Reads an IPv4 or IPv6 header and the TCP header behind it. None for what is not whole."""
    try:
        if packet[0] >> 4 == 4:
            return _parse_tcp(packet[(packet[0] & 15) * 4 :], packet[8], packet[1])
        traffic_class = (packet[0] & 15) << 4 | packet[1] >> 4
        following, at = packet[6], _IPV6_BASE
        while following in _EXTENSIONS:
            following, at = packet[at], at + (packet[at + 1] + 1) * 8
        return _parse_tcp(packet[at:], packet[7], traffic_class)
    except (IndexError, struct.error):
        return None


def _parse_tcp(header: bytes, ttl: int, traffic_class: int) -> Syn:
    options = header[20 : (header[12] >> 4) * 4]
    syn = Syn(ttl, traffic_class >> 2, traffic_class & 3, None, None, sack=False, timestamps=False)
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        kind, length = options[at], options[at + 1]
        value = options[at + 2 : at + length]
        if length < 2:
            break
        if kind == _MSS:
            syn = evolve(syn, mss=int.from_bytes(value, "big"))
        elif kind == _WINDOW_SCALE:
            syn = evolve(syn, wscale=value[0])
        elif kind == _SACK_PERMITTED:
            syn = evolve(syn, sack=True)
        elif kind == _TIMESTAMPS:
            syn = evolve(syn, timestamps=True)
        at += length
    return syn


def parse_tcp_info(info: bytes) -> TcpInfo | None:
    """Reads ``struct tcp_info`` of linux/tcp.h. None for what is too short to be one."""
    if len(info) < 104:
        return None
    options = info[5]
    words = struct.unpack_from("=24I", info, 8)
    return TcpInfo(
        rtt_us=words[15],
        mss=words[2],
        retransmits=words[23],
        advertised_mss=words[19],
        timestamps=bool(options & 1),
        sack=bool(options & 2),
        wscale=bool(options & 4),
    )


def ask_for_headers(sock: socket.socket) -> None:
    """Have the header fields of datagrams delivered beside them, as ancillary data."""
    if not _LINUX:
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)


def read_header(ancillary: list[tuple[int, int, bytes]]) -> Arrival:
    """The header fields among a datagram's ancillary data."""
    found = Arrival()
    for level, kind, value in ancillary:
        if (level, kind) in {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}:
            found = evolve(found, ttl=int.from_bytes(value[:4], sys.byteorder))
        elif (level, kind) in {(socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}:
            # IPv4 hands out one byte, IPv6 an int of which the low byte counts.
            found = evolve(found, dscp=value[0 if sys.byteorder == "little" else len(value) - 1] >> 2)
    return found
