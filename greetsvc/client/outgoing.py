"""How a probe leaves: from which source port, with which DSCP, and behind which PROXY header."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import Literal

from attrs import frozen

from greetsvc.errors import ConfigError
from greetsvc.visit import Address

__all__ = ["AS_EVER", "HIGHEST_DSCP", "Claim", "Outgoing", "parse_claim"]

HIGHEST_DSCP = 63
"""DSCP has six bits (RFC 2474 3)."""

_PORT = re.compile(r"[0-9]{1,5}")


@frozen
class Claim:
    """A PROXY header to send first: its version, and the source that it names."""

    version: Literal[1, 2]
    source: Address

    def header(self, destination: Address) -> bytes:
        """The header; a UNIX socket, which is no destination it can name, becomes the unspecified address."""
        from greetsvc.net.proxy.header import encode_v1, encode_v2

        host, port = destination.host.partition("%")[0], destination.port
        if not port:
            host = "::" if ":" in self.source.host else "0.0.0.0"
        encode = encode_v1 if self.version == 1 else encode_v2
        return encode((self.source.host, self.source.port), (host, port))


def parse_claim(version: Literal[1, 2], text: str) -> Claim:
    """What ``SRC:PORT`` means: ``192.0.2.1:1234`` or ``[2001:db8::1]:1234``.

    :raises ConfigError: when it means nothing.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif ":" in host:
        host = ""
    try:
        source = str(ip_address(host))
    except ValueError:
        source = ""
    if not source or "%" in source or not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigError("must be an address and a port, as 192.0.2.1:1234", name=f"proxy-v{version}", value=text)
    return Claim(version, Address(source, int(port)))


@frozen
class Outgoing:
    """What is set on the socket of a probe before it sends; None leaves it to the system.

    :raises ConfigError: for what cannot be.
    """

    dscp: int | None = None
    source_port: int | None = None
    claim: Claim | None = None

    def __attrs_post_init__(self) -> None:
        if self.dscp is not None and not 0 <= self.dscp <= HIGHEST_DSCP:
            raise ConfigError(f"must be from 0 to {HIGHEST_DSCP}", name="dscp", value=self.dscp)
        if self.source_port is not None and not 1 <= self.source_port <= 65535:
            raise ConfigError("must be from 1 to 65535", name="source-port", value=self.source_port)

    def header(self, destination: Address | None) -> bytes:
        """The PROXY header to send first, or nothing."""
        return self.claim.header(destination) if self.claim is not None and destination is not None else b""

    def prepare(self, sock: socket.socket) -> None:
        """Set up a socket that is not yet connected.

        :raises OSError: when the source port cannot be had.
        """
        six = sock.family == socket.AF_INET6
        if self.dscp is not None:
            level, option = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if six else (socket.IPPROTO_IP, socket.IP_TOS)
            sock.setsockopt(level, option, self.dscp << 2)
        if self.source_port is not None:
            # The connection before this one may not be forgotten yet.
            if sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::" if six else "0.0.0.0", self.source_port))


AS_EVER = Outgoing()
"""Everything left to the system."""
