"""The greeter ``path``: what the server saw of the visit, for the client to compare with what it sent."""

from __future__ import annotations

import secrets

from greetsvc import wire
from greetsvc.visit import PathFacts, Visit

__all__ = ["INSTANCE", "PathGreeter"]

INSTANCE = secrets.token_hex(4)
"""Identifies this process: it differs after each start and in each replica."""


class PathGreeter:
    """Gives a `greetsvc.wire.PathRecord`.

    Where a PROXY header names the peer, the packets are those of the proxy, and are left out.
    """

    needs = frozenset({"peer", "local", "via", "tls", "path", "size"})

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> PathGreeter:  # noqa: ARG003 - JSON is ASCII here
        """What the server saw of the visit, one line of JSON that `greet` explains."""
        if argument:
            raise ValueError(f"path takes no argument, not {argument!r}")
        return cls()

    def greet(self, visit: Visit) -> bytes:
        """The record of this visit."""
        path = visit.path or PathFacts()
        own = visit.via is None
        tcp, tls, datagram = path.tcp, visit.tls, path.datagram
        return wire.encode_record(
            wire.PathRecord(
                instance=INSTANCE,
                nonce=path.nonce,
                transport=visit.transport,
                you=visit.peer,
                me=visit.local,
                via=visit.via,
                syn=path.syn if own else None,
                tcp=wire.Tcp(tcp.rtt_us, tcp.mss, tcp.retransmits) if tcp and own else None,
                measured=None if path.measured is None else path.measured.decode("ascii").rstrip(),
                tls=wire.Tls(tls.version, tls.cipher, tls.sni, tls.alpn) if tls else None,
                datagram=wire.Datagram(ttl=datagram.ttl, dscp=datagram.dscp, ecn=datagram.ecn, size=visit.size or 0)
                if datagram
                else None,
            )
        )
