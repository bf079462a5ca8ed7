"""Our own side of a probe: what our packets looked like when they left, and what our kernel knows of the connection.

Linux tells all of it without privilege; elsewhere what is not told is None.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from pathlib import Path

from attrs import evolve, frozen

from greetsvc.net.linux.packets import TcpInfo, read_tcp_info
from greetsvc.visit import Address

__all__ = ["OPTIONS", "Sent", "offered", "read_datagram", "read_stream"]

OPTIONS = {"timestamps": "tcp_timestamps", "sack": "tcp_sack", "wscale": "tcp_window_scaling"}
"""The TCP options that a path may strip, and the switch in ``/proc/sys/net/ipv4`` that has Linux offer them."""

_SWITCHES = Path("/proc/sys/net/ipv4")
_TIMESTAMPS_SPACE = 12
"""Bytes of each segment that timestamps take once they are agreed on (RFC 7323 appendix A)."""


@frozen
class Sent:
    """What we sent: addresses, TTL or hop limit, DSCP, the nonce of a request, the source a PROXY header named.

    ``tcp`` is the state of the connection when it stood, or when we gave it up; ``offered`` the names of the TCP
    options in our SYN. ``asked`` is the address that was asked.
    """

    asked: Address
    local: Address | None = None
    ttl: int | None = None
    dscp: int | None = None
    nonce: str | None = None
    claimed: Address | None = None
    tcp: TcpInfo | None = None
    offered: frozenset[str] | None = None

    @property
    def mss(self) -> int | None:
        """The MSS in our SYN, in bytes: Linux takes the timestamps' space off what it remembers of it."""
        if self.tcp is None:
            return None
        return self.tcp.advertised_mss + (_TIMESTAMPS_SPACE if self.tcp.timestamps else 0)

    @property
    def syns(self) -> int | None:
        """How often our SYN was sent, up to the moment that ``tcp`` is of."""
        return None if self.tcp is None else self.tcp.retransmits + 1


def read_stream(sock: socket.socket, asked: Address, claimed: Address | None = None) -> Sent:
    """What a TCP socket of ours sent, connected or not yet."""
    return _read(sock, Sent(asked, claimed=claimed, tcp=read_tcp_info(sock), offered=offered()))


def read_datagram(sock: socket.socket, asked: Address, sockaddr: tuple[object, ...], nonce: str | None) -> Sent:
    """What a UDP socket of ours sent. One that is not connected does not know its own host: another finds it out."""
    sent = _read(sock, Sent(asked, nonce=nonce))
    try:
        with socket.socket(sock.family, socket.SOCK_DGRAM) as scout:
            scout.connect(sockaddr)
            host = scout.getsockname()[0]
        return evolve(sent, local=Address.plain(host, sock.getsockname()[1]))
    except OSError:
        return sent


def _read(sock: socket.socket, sent: Sent) -> Sent:
    six = sock.family == socket.AF_INET6
    try:
        host, port, *_ = sock.getsockname()
        if six:
            ttl = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            traffic_class = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        else:
            ttl = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
            traffic_class = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
    except OSError:
        return sent
    return evolve(sent, local=Address.plain(host, port), ttl=ttl, dscp=traffic_class >> 2)


@lru_cache(maxsize=1)
def offered(switches: Path = _SWITCHES) -> frozenset[str] | None:
    """The names of the TCP options that this system offers; None where it does not tell. Read once."""
    try:
        return frozenset(name for name, switch in OPTIONS.items() if int((switches / switch).read_text()))
    except (OSError, ValueError):
        return None
