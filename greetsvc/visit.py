"""The values that flow from the network to a greeter: who came, from where, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from greetsvc.address import NOBODY, Address

if TYPE_CHECKING:
    from greetsvc.net.linux.packets import Arrival, Syn
    from greetsvc.net.linux.tcp_info import TcpInfo
    from greetsvc.net.tls.endpoint import TlsFacts

__all__ = ["NOBODY", "Address", "PathFacts", "Visit"]


@frozen
class PathFacts:
    """The packets of a visit as they arrived, as far as that can be read; None where not.

    ``syn`` is the SYN of the connection, ``tcp`` its state, ``datagram`` the header of the request datagram, and
    ``nonce`` the nonce in a marked request, ``measured`` the measured answer to a request that wants one.
    """

    syn: Syn | None = None
    tcp: TcpInfo | None = None
    datagram: Arrival | None = None
    measured: bytes | None = None
    nonce: str | None = None


@frozen
class Visit:
    """One visit, as the network saw it. A greeter finds here what its ``needs`` name; other fields may hold defaults.

    ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp`` or ``unixgram``. ``peer`` and ``local`` are the two ends.
    ``number`` counts the visits of this process from 1. ``when`` is in seconds since 1970. ``via`` is the proxy that
    named ``peer`` (PROXY protocol). ``size`` is the length of the request datagram in bytes. ``name`` is the name
    that the peer of a talking protocol gives itself. ``tls`` is what the handshake told, ``path`` what was read of
    the packets.
    """

    transport: str
    peer: Address
    local: Address
    number: int = 0
    when: float = 0.0
    via: Address | None = None
    size: int | None = None
    name: str | None = None
    tls: TlsFacts | None = None
    path: PathFacts | None = None
