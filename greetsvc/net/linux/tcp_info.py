"""The state of a TCP connection, as Linux tells it without privilege (``TCP_INFO``, tcp(7)).

On other systems the readings are None. Importing this needs no library: a health check does.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import NamedTuple

__all__ = ["TcpInfo", "parse_tcp_info", "read_tcp_info", "read_timestamp", "tcp_option"]

_LINUX = sys.platform == "linux"
# linux/tcp.h; Python's socket module does not have all of them everywhere.
_TCP_INFO = 11
_TCP_INFO_SIZE = 104  # bytes up to tcpi_total_retrans, the last field that every kernel has
_TCP_INFO_LONG = 228  # bytes up to tcpi_rcv_ooopack (Linux 5.4)
_TCP_TIMESTAMP = 24


class TcpInfo(NamedTuple):
    """A connection as this end sees it: smoothed round trip in microseconds, MSS in bytes, retransmitted segments.

    ``advertised_mss`` is the MSS in our SYN, less the 12 bytes of the timestamps option where both ends use it.
    ``unacked`` counts our segments that were not acknowledged yet. ``path_mtu`` is the largest IP packet that the
    kernel sends on this path. ``segments_in`` came so far, SYN-ACKs and ACKs too; ``data_segments_in`` of them had
    data, and ``out_of_order`` came while an earlier one was missing. These three are None on an old kernel.
    """

    rtt_us: int
    mss: int
    retransmits: int
    advertised_mss: int
    timestamps: bool
    sack: bool
    wscale: bool
    unacked: int = 0
    path_mtu: int = 0
    segments_in: int | None = None
    data_segments_in: int | None = None
    out_of_order: int | None = None


def read_tcp_info(sock: socket.socket) -> TcpInfo | None:
    """The state of a connection; None where the kernel does not tell it."""
    return parse_tcp_info(tcp_option(sock, _TCP_INFO, _TCP_INFO_LONG))


def read_timestamp(sock: socket.socket) -> int | None:
    """The time stamp that a TCP socket would send now (RFC 7323 4), in milliseconds from a start of its own.

    The kernel gives each pair of addresses another start, and clears or sets the lowest bit (Linux 6.7).
    """
    value = tcp_option(sock, _TCP_TIMESTAMP, 4)
    return int.from_bytes(value, sys.byteorder) if value else None


def tcp_option(sock: socket.socket, option: int, size: int) -> bytes:
    """The value of a socket option, at most ``size`` bytes; empty where there is none."""
    if _LINUX and sock.family in {socket.AF_INET, socket.AF_INET6}:
        with suppress(OSError):
            return sock.getsockopt(socket.IPPROTO_TCP, option, size)
    return b""


def parse_tcp_info(info: bytes) -> TcpInfo | None:
    """Reads ``struct tcp_info`` of linux/tcp.h. None where it is too short."""
    if len(info) < _TCP_INFO_SIZE:
        return None
    # Eight single bytes, of which the sixth is tcpi_options, then 24 words in an order that is fixed: fields are only
    # ever added behind. Word 2 is tcpi_snd_mss, 4 tcpi_unacked, 13 tcpi_pmtu, 15 tcpi_rtt, 19 tcpi_advmss, 23
    # tcpi_total_retrans. Behind them, at these bytes: 140 tcpi_segs_in, 152 tcpi_data_segs_in, 224 tcpi_rcv_ooopack.
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
        unacked=words[4],
        path_mtu=words[13],
        segments_in=_word(info, 140),
        data_segments_in=_word(info, 152),
        out_of_order=_word(info, 224),
    )


def _word(info: bytes, at: int) -> int | None:
    return int.from_bytes(info[at : at + 4], sys.byteorder) if len(info) >= at + 4 else None
