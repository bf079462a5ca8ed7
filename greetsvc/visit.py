"""The one value that flows from the network to the greeter: who came, from where, and how."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from greetsvc.printable import escaped

if TYPE_CHECKING:
    from greetsvc.net.linux.packets import Arrival, Syn, TcpInfo
    from greetsvc.net.tls.endpoint import TlsFacts

__all__ = ["Address", "PathFacts", "Visit"]

_MAPPED = "::ffff:"


class Address(NamedTuple):
    """Where one end of a conversation is: a host and a port, or the path of a UNIX socket and port 0.

    An IPv4 address mapped into IPv6 (``::ffff:192.0.2.1``, RFC 4291 2.5.5.2) is written as IPv4.
    """

    host: str
    port: int

    @classmethod
    def plain(cls, host: str, port: int = 0) -> Address:
        """The address as it is shown and limited: IPv4 that is mapped into IPv6 is IPv4."""
        return cls(host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host, port)

    @classmethod
    def of_path(cls, name: str | bytes | None) -> Address:
        """The name of a UNIX socket; one in Linux's abstract namespace begins with a NUL byte, shown as ``@``.

        Peers choose their names, which go into logs and to terminals: what is not printable is escaped.
        """
        text = os.fsencode(name or b"").decode("utf-8", "backslashreplace").replace("\0", "@")
        return cls(escaped(text), 0)


@frozen
class PathFacts:
    """What the path did to the packets of a visit, as far as it can be read: SYN, connection, request datagram.

    ``nonce`` is that of a marked request.
    """

    syn: Syn | None = None
    tcp: TcpInfo | None = None
    datagram: Arrival | None = None
    nonce: str | None = None


@frozen
class Visit:
    """One visit, as the network saw it.

    ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp`` or ``unixgram``; ``number`` counts the visits of this
    process from 1; ``when`` is in seconds since 1970; ``via`` is the proxy that named ``peer`` (PROXY protocol);
    ``size`` is the length of the request datagram in bytes; ``name`` is what a talking peer calls itself;
    ``tls`` is what the handshake told, ``path`` what was read of the packets for a greeter that needs it.
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
