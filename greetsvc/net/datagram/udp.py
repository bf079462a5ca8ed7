"""Chooses the port that serves a UDP socket best."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from greetsvc.net.datagram.port import DatagramPort

try:
    from greetsvc.net.datagram.batched import BatchedPort
    from greetsvc.net.linux.mmsg import mmsg_works
except ImportError:  # a Python that was built without ctypes
    BatchedPort = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from collections import Counter

    from twisted.internet.interfaces import IReactorFDSet
    from twisted.internet.protocol import DatagramProtocol

__all__ = ["udp_port"]


def udp_port(
    sock: socket.socket,
    protocol: DatagramProtocol,
    reactor: IReactorFDSet,
    *,
    longest: int,
    headers: bool = False,
    dropped: Counter[str] | None = None,
) -> DatagramPort:
    """The fastest port for a bound UDP socket that tells what it has to tell."""
    dual = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if headers or dual or BatchedPort is None or not mmsg_works():
        return DatagramPort(sock, protocol, reactor, longest=longest, headers=headers, dropped=dropped)
    return BatchedPort(sock, protocol, reactor, longest=longest, dropped=dropped)
