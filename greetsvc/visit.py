"""The one value that flows from the network to the greeter: who came, from where, and how."""

from __future__ import annotations

from typing import NamedTuple

from attrs import field, frozen

__all__ = ["Address", "Tls", "Visit"]


class Address(NamedTuple):
    """Where one end of a conversation is: a host and a port, or the path of a UNIX socket and port 0.

    An IPv4 address mapped into IPv6 (``::ffff:192.0.2.1``, RFC 4291 2.5.5.2) is written as IPv4.
    """

    host: str
    port: int


@frozen
class Tls:
    """What a finished TLS handshake told: version and cipher, and the names that were asked for and proven."""

    version: str
    cipher: str
    sni: str | None = None
    alpn: str | None = None
    certificate: str | None = None


@frozen
class Visit:
    """One visit, as the network saw it.

    ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp`` or ``unixgram``; ``number`` counts the visits of this
    process from 1; ``when`` is in seconds since 1970; ``via`` is the proxy that named ``peer`` (PROXY protocol);
    ``size`` is the length of the request datagram in bytes; ``name`` is what a talking peer calls itself.
    """

    transport: str
    peer: Address
    local: Address
    number: int = 0
    when: float = 0.0
    via: Address | None = None
    size: int | None = None
    name: str | None = None
    tls: Tls | None = field(default=None, repr=False)
