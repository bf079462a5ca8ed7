"""Chooses the port class that serves a UDP socket best."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import DatagramProtocol

from greetsvc.net.datagram.port import BatchAnswers, DatagramPort

try:
    from greetsvc.net.datagram.batched import BatchedPort
    from greetsvc.net.linux.mmsg import AVAILABLE
except ImportError:  # a Python that was built without ctypes
    BatchedPort = None  # type: ignore[assignment,misc]

__all__ = ["udp_port"]


def udp_port(
    sock: socket.socket,
    protocol: DatagramProtocol,
    reactor: IReactorFDSet,
    *,
    longest: int,
    headers: bool = False,
    dropped: Callable[[str], object] | None = None,
    batches: BatchAnswers | None = None,
) -> DatagramPort:
    """A `BatchedPort` where the platform and the socket allow one, else a `DatagramPort`, which ignores ``batches``.

    A dual-stack socket gets the latter: its datagrams carry the packet info of either family.
    """
    dual = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if dual or BatchedPort is None or not AVAILABLE:
        return DatagramPort(sock, protocol, reactor, longest=longest, headers=headers, dropped=dropped)
    return BatchedPort(sock, protocol, reactor, longest=longest, headers=headers, dropped=dropped, batches=batches)
