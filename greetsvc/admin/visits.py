"""The latest visits, for people who watch; and which calls of the socket tutorial a visit is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from attrs import frozen

__all__ = ["CALLS", "Call", "SeenVisit", "network_of", "since"]

_SHOWN_BITS = {4: 24, 6: 48}


@frozen
class SeenVisit:
    """One visit: when it was greeted, over what, who came, and how many seconds the greeting took."""

    when: float
    transport: str
    host: str
    port: int
    seconds: float

    def without_address(self) -> SeenVisit:
        """The same for strangers to see: the network that the peer is in, and no port."""
        return SeenVisit(self.when, self.transport, network_of(self.host), 0, self.seconds)


def since(last: SeenVisit | None, visits: Iterable[SeenVisit]) -> list[SeenVisit]:
    """The visits after ``last``; all, if that is not among them any more."""
    listed = [*visits]
    return listed[listed.index(last) + 1 :] if last in listed else listed


@frozen
class Call:
    """One step of a visit: the call of the socket tutorial that it is, and what happens here."""

    name: str
    meaning: str


_ACCEPT = Call(
    "accept()", "takes the connection from the queue of the listening socket. The tutorial waits in this call."
)
_SEND = Call("send()", "hands the greeting to the kernel, and the FIN right behind it: shutdown(SHUT_WR).")
_RECV = Call(
    "recv()",
    "reads what the peer still sends, and drops it, until the peer closes or is silent for too long (--linger). The"
    " tutorial leaves this out: close() with unread input sends a reset, which can destroy the greeting on its way.",
)
_CLOSE = Call("close()", "gives the socket back. The connection counts as open until then.")
_RECVFROM = Call(
    "recvfrom()", "reads one datagram and the address that it came from. There is no connection to accept."
)
_SENDTO = Call(
    "sendto()", "answers that address, if the UDP rule allows: the address may be forged. There is nothing to close."
)

CALLS: Mapping[str, tuple[Call, ...]] = {
    "tcp": (_ACCEPT, _SEND, _RECV, _CLOSE),
    "tls": (
        _ACCEPT,
        Call(
            "recv(), send()",
            "take turns in the TLS handshake: wrap_socket() in the tutorial. The greeting waits for it.",
        ),
        _SEND,
        _RECV,
        _CLOSE,
    ),
    "unix": (_ACCEPT, _SEND, _RECV, _CLOSE),
    "udp": (_RECVFROM, _SENDTO),
    "unixgram": (
        _RECVFROM,
        Call(
            "sendto()", "answers the socket that it came from, a file or an abstract name. There is nothing to close."
        ),
    ),
}
"""The calls of a visit, in their order, by transport."""


def network_of(host: str) -> str:
    """The network around an address, an IPv4 /24 or an IPv6 /48; of anything else nothing."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    bits = _SHOWN_BITS[address.version]
    high = int(address) >> (address.max_prefixlen - bits) << (address.max_prefixlen - bits)
    return f"{type(address)(high)}/{bits}"
