"""The values that flow from the network to a greeter: who came, from where, and how."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from greetsvc.printable import escaped

if TYPE_CHECKING:
    from greetsvc.net.linux.packets import Arrival, Syn, TcpInfo
    from greetsvc.net.tls.endpoint import TlsFacts

__all__ = ["NOBODY", "Address", "PathFacts", "Visit"]

_MAPPED = "::ffff:"


class Address(NamedTuple):
    """The address of one end: a host and a port, or the path of a UNIX socket and port 0.

    An IPv4 address mapped into IPv6 (``::ffff:192.0.2.1``, RFC 4291 2.5.5.2) is written as IPv4.
    """

    host: str
    port: int

    @classmethod
    def plain(cls, host: str, port: int = 0) -> Address:
        """The address as it is shown, and as limits see it: IPv4 that is mapped into IPv6 is IPv4."""
        return cls(host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host, port)

    @classmethod
    def of_path(cls, name: str | bytes | None) -> Address:
        """The address of a UNIX socket with this name; None or empty where it has none.

        A name in Linux's abstract namespace begins with a NUL byte, shown as ``@`` (unix(7)). Peers choose their
        names, and names go to logs and terminals: what is not printable is escaped.
        """
        text = os.fsencode(name or b"").decode("utf-8", "backslashreplace").replace("\0", "@")
        return cls(escaped(text), 0)


NOBODY = Address("", 0)
"""Where an address is not known, or was not asked for."""


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
