"""What packets looked like when they arrived: the SYN of a connection, the header of a datagram.

Linux gives both without privilege: the SYN, where the listening socket asked to keep it (``TCP_SAVE_SYN``, since
4.2), and header fields of datagrams (ip(7), RFC 3542 4). On other systems the readings are None.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple

from attrs import frozen

from greetsvc.net.linux.tcp_info import tcp_option
from greetsvc.net.linux.time_stamps import ask_for_time, time_in

__all__ = [
    "Arrival",
    "Syn",
    "ask_for_headers",
    "keep_syn",
    "parse_syn",
    "read_header",
    "read_syn",
]

_LINUX = sys.platform == "linux"
# linux/tcp.h and linux/in.h; Python's socket module does not have all of them everywhere.
_TCP_SAVE_SYN = 27
_TCP_SAVED_SYN = 28
_IP_RECVTOS = 13
_IP_RECVTTL = 12

_IPV6_BASE = 40  # bytes of the IPv6 header
_EXTENSIONS = {0, 43, 60}  # hop-by-hop options, routing, destination options (RFC 8200 4)
_END, _NO_OPERATION, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _TIMESTAMPS = 0, 1, 2, 3, 4, 8


@frozen
class Syn:
    """The SYN that opened a connection: IP header fields and TCP options (RFC 9293 3.2, RFC 7323, RFC 2018).

    ``mss`` in bytes, ``wscale`` as a shift and ``tsval``, the sender's time stamp, are None where the option was
    missing.
    """

    ttl: int
    dscp: int
    ecn: int
    mss: int | None
    wscale: int | None
    sack: bool
    timestamps: bool
    tsval: int | None = None


class Arrival(NamedTuple):
    """The header of a datagram: TTL or hop limit, DSCP and ECN; and when the kernel received it.

    ``time`` is CLOCK_REALTIME in nanoseconds.
    """

    ttl: int | None = None
    dscp: int | None = None
    ecn: int | None = None
    time: int | None = None

    @property
    def tos(self) -> int | None:
        """DSCP and ECN as the one byte that they are in the header (RFC 2474 3, RFC 3168 5)."""
        return None if self.dscp is None or self.ecn is None else self.dscp << 2 | self.ecn


def keep_syn(listening: socket.socket) -> None:
    """Have the kernel keep the SYN of each connection that this listening socket accepts, on Linux."""
    if _LINUX and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)


def read_syn(sock: socket.socket) -> Syn | None:
    """The SYN of an accepted connection; None where it was not kept. Reading it once makes the kernel forget it."""
    return parse_syn(tcp_option(sock, _TCP_SAVED_SYN, 512))


def parse_syn(packet: bytes) -> Syn | None:
    """Reads an IPv4 or IPv6 header and the TCP header behind it. None where they are cut short."""
    try:
        # IPv4 (RFC 791 3.1): version and header length, DSCP and ECN, ..., TTL in byte 8.
        if packet[0] >> 4 == 4:
            return _parse_tcp(packet[(packet[0] & 15) * 4 :], packet[8], packet[1])
        # IPv6 (RFC 8200 3): version, traffic class across two bytes, ..., next header in byte 6, hop limit in byte 7.
        traffic_class = (packet[0] & 15) << 4 | packet[1] >> 4
        following, at = packet[6], _IPV6_BASE
        while following in _EXTENSIONS:
            following, at = packet[at], at + (packet[at + 1] + 1) * 8
        return _parse_tcp(packet[at:], packet[7], traffic_class)
    except (IndexError, struct.error):
        return None


def _parse_tcp(header: bytes, ttl: int, traffic_class: int) -> Syn:
    options = header[20 : (header[12] >> 4) * 4]
    values: dict[int, bytes] = {}
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        length = options[at + 1]
        if length < 2:
            break
        values[options[at]] = options[at + 2 : at + length]
        at += length
    return Syn(
        ttl=ttl,
        dscp=traffic_class >> 2,
        ecn=traffic_class & 3,
        mss=int.from_bytes(values[_MSS], "big") if _MSS in values else None,
        wscale=values[_WINDOW_SCALE][0] if _WINDOW_SCALE in values else None,
        sack=_SACK_PERMITTED in values,
        timestamps=_TIMESTAMPS in values,
        tsval=int.from_bytes(values[_TIMESTAMPS][:4], "big") if _TIMESTAMPS in values else None,
    )


def ask_for_headers(sock: socket.SocketType, *, wanted: bool = True) -> None:
    """Have the kernel deliver TTL, DSCP, ECN and a time stamp with each datagram, as ancillary data; or no longer."""
    if not _LINUX:
        return
    # An IPv6 socket takes the IPv4 options too, for the mapped datagrams of a dual-stack socket.
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, wanted)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, wanted)
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, wanted)
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, wanted)
    ask_for_time(sock, wanted=wanted)


def read_header(ancillary: list[tuple[int, int, bytes]]) -> Arrival:
    """The header fields and the time stamp among a datagram's ancillary data."""
    ttl = tos = None
    for level, kind, value in ancillary:
        if (level, kind) in {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}:
            ttl = int.from_bytes(value[:4], sys.byteorder)
        elif (level, kind) in {(socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}:
            # IPv4 delivers one byte, IPv6 an int whose low byte counts.
            tos = value[0 if sys.byteorder == "little" else -1]
    return Arrival(ttl, None if tos is None else tos >> 2, None if tos is None else tos & 3, time_in(ancillary))
