"""The socket of a probe: options set before it sends, and what our own side knows afterwards.

Linux tells all of it without privilege; what another system does not tell is None.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from attrs import evolve

from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import TCP_OPTIONS, Sent
from greetsvc.net.linux.tcp_info import read_tcp_info, read_timestamp
from greetsvc.visit import Address

__all__ = ["offered_options", "prepare", "read_datagram", "read_stream"]

_OPTION_NAMES = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS),
}
"""The level, the TTL and the traffic class of each family, as socket options name them."""

_SWITCHES = dict(zip(TCP_OPTIONS, ("tcp_timestamps", "tcp_sack", "tcp_window_scaling"), strict=True))
"""The setting that has Linux offer each option."""


def prepare(sock: socket.socket, options: ProbeOptions) -> None:
    """Set DSCP and source port on a socket that is not yet connected.

    :raises OSError: when the source port is not available.
    """
    if options.dscp is not None:
        level, _, traffic_class = _OPTION_NAMES[sock.family]
        sock.setsockopt(level, traffic_class, options.dscp << 2)
        if sock.family == socket.AF_INET6:
            with suppress(OSError):  # what goes to an IPv4-mapped address has the options of IPv4
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, options.dscp << 2)
    if options.source_port is not None:
        if sock.type == socket.SOCK_STREAM:
            # The previous connection from this port may still be in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", options.source_port))


def read_stream(sock: socket.socket, destination: Address, claimed: Address | None = None) -> Sent:
    """What a TCP socket of ours sent, connected or not yet."""
    sent = Sent(
        destination,
        claimed=claimed,
        tcp=read_tcp_info(sock),
        offered=offered_options(),
        timestamp=read_timestamp(sock),
    )
    return _read(sock, sent)


def read_datagram(sock: socket.socket, destination: Address, sockaddr: tuple[object, ...], nonce: str | None) -> Sent:
    """What a UDP socket of ours sent.

    An unconnected socket does not know its own host, so a second socket is connected to find the source address.
    """
    sent = _read(sock, Sent(destination, nonce=nonce))
    try:
        with socket.socket(sock.family, socket.SOCK_DGRAM) as scout:
            scout.connect(sockaddr)
            host = scout.getsockname()[0]
        return evolve(sent, local=Address.plain(host, sock.getsockname()[1]))
    except OSError:
        return sent


def _read(sock: socket.socket, sent: Sent) -> Sent:
    mapped = getattr(ip_address(sent.destination.host.partition("%")[0]), "ipv4_mapped", None)
    level, *names = _OPTION_NAMES[socket.AF_INET if mapped else sock.family]
    try:
        host, port, *_ = sock.getsockname()
        ttl, traffic_class = (sock.getsockopt(level, name) for name in names)
    except OSError:
        return sent
    return evolve(sent, local=Address.plain(host, port), ttl=ttl, dscp=traffic_class >> 2)


@lru_cache(maxsize=1)
def offered_options(folder: Path = Path("/proc/sys/net/ipv4")) -> frozenset[str] | None:
    """The TCP options that this system offers; None where it does not tell. Read once."""
    try:
        return frozenset(name for name, switch in _SWITCHES.items() if int((folder / switch).read_text()))
    except (OSError, ValueError):
        return None
