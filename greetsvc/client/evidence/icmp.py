"""ICMP messages that end a probe: their words, who sent them, and what they probably mean. Pure.

The sender decides what a message means. "Port unreachable" from the target says that the host is there; the same from
a router on the way is a firewall's reject, and says nothing about the host; from this host it is a rule of our own.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Literal, NamedTuple

from greetsvc.address import Address
from greetsvc.net.linux.error_queue import QueuedError

__all__ = ["CAUSES", "MESSAGES", "Icmp", "Sender", "icmp_of"]

Sender = Literal["target", "router", "this host"]

_UNKNOWN = "other"

MESSAGES: dict[tuple[int, int, int], tuple[str, str]] = {
    (4, 3, 0): ("network unreachable", "no route"),
    (4, 3, 1): ("host unreachable", "no host"),
    (4, 3, 2): ("protocol unreachable", "no protocol"),
    (4, 3, 3): ("port unreachable", "no port"),
    (4, 3, 4): ("fragmentation needed", "too big"),
    (4, 3, 5): ("source route failed", "header"),
    (4, 3, 6): ("destination network unknown", "no route"),
    (4, 3, 7): ("destination host unknown", "no host"),
    (4, 3, 8): ("source host isolated", "source"),
    (4, 3, 9): ("network administratively prohibited", "prohibited"),
    (4, 3, 10): ("host administratively prohibited", "prohibited"),
    (4, 3, 11): ("network unreachable for this type of service", "service"),
    (4, 3, 12): ("host unreachable for this type of service", "service"),
    (4, 3, 13): ("communication administratively prohibited", "prohibited"),
    (4, 3, 14): ("host precedence violation", "service"),
    (4, 3, 15): ("precedence cutoff in effect", "service"),
    (4, 4, 0): ("source quench", _UNKNOWN),
    (4, 5, 0): ("redirect for the network", _UNKNOWN),
    (4, 5, 1): ("redirect for the host", _UNKNOWN),
    (4, 5, 2): ("redirect for the type of service and network", _UNKNOWN),
    (4, 5, 3): ("redirect for the type of service and host", _UNKNOWN),
    (4, 11, 0): ("TTL exceeded in transit", "loop"),
    (4, 11, 1): ("fragment reassembly time exceeded", "fragments"),
    (4, 12, 0): ("parameter problem", "header"),
    (4, 12, 1): ("a required option is missing", "header"),
    (4, 12, 2): ("bad length", "header"),
    (6, 1, 0): ("no route to destination", "no route"),
    (6, 1, 1): ("communication with destination administratively prohibited", "prohibited"),
    (6, 1, 2): ("beyond scope of source address", "source"),
    (6, 1, 3): ("address unreachable", "no host"),
    (6, 1, 4): ("port unreachable", "no port"),
    (6, 1, 5): ("source address failed ingress/egress policy", "source"),
    (6, 1, 6): ("reject route to destination", "prohibited"),
    (6, 1, 7): ("error in source routing header", "header"),
    (6, 1, 8): ("headers too long", "header"),
    (6, 2, 0): ("packet too big", "too big"),
    (6, 3, 0): ("hop limit exceeded in transit", "loop"),
    (6, 3, 1): ("fragment reassembly time exceeded", "fragments"),
    (6, 4, 0): ("erroneous header field", "header"),
    (6, 4, 1): ("unrecognized next header type", "no protocol"),
    (6, 4, 2): ("unrecognized IPv6 option", "header"),
    (6, 4, 3): ("the first fragment has an incomplete header chain", "header"),
    (6, 4, 4): ("error in the header behind the segment routing header", "header"),
    (6, 4, 5): ("unrecognized next header type at a router", "header"),
    (6, 4, 6): ("extension header too big", "header"),
    (6, 4, 7): ("extension header chain too long", "header"),
    (6, 4, 8): ("too many extension headers", "header"),
    (6, 4, 9): ("too many options in an extension header", "header"),
    (6, 4, 10): ("option too big", "header"),
}
"""IP version, type and code of each error message: its words, and the kind of cause.

RFC 792, 1108, 1122 (3.2.2.1), 1812 (5.2.7); for IPv6 RFC 4443, 6550, 7112, 8754, 8883.
"""

_FORWARDED = "the device at that address forwards to another host, such as NAT or a load balancer, and"
_DOWN = "it is down, or there is no such host"

CAUSES: dict[str, dict[Sender, str]] = {
    "no route": {
        "target": f"{_FORWARDED} has no route to it; or that host's own firewall rejects as if it had none",
        "router": "a router on the path has no route to that network, or rejects as if it had none",
        "this host": "this host has no route to that network, or a firewall rule of its own says so",
    },
    "no host": {
        "target": f"{_FORWARDED} that one does not answer; or that host's own firewall rejects",
        "router": f"that host does not answer its router: {_DOWN}; or that router rejects",
        "this host": f"that host does not answer on our own network (ARP, neighbour discovery): {_DOWN}; or the "
        "gateway to it does not; or a firewall rule on this host rejects",
    },
    "no port": {
        "target": "the host is there: nothing listens on that port, or the host's own firewall rejects it",
        "router": "a firewall on the path rejects it; whether the host is there is not known",
        "this host": "a firewall rule on this host rejects it",
    },
    "prohibited": {
        "target": "a firewall on that host forbids it",
        "router": "a firewall on the path forbids it; whether the host is there is not known",
        "this host": "a firewall rule or a route on this host forbids it",
    },
    "source": {
        "target": "that host does not accept our source address",
        "router": "a router on the path does not forward our source address: it is not valid there",
        "this host": "our source address cannot reach that destination",
    },
    "service": {
        "target": "that host refuses our DSCP",
        "router": "a router on the path refuses our DSCP, or has no route for it",
        "this host": "this host has no route for our DSCP",
    },
    "no protocol": {
        "target": "the host is there: it does not speak this protocol, or its own firewall rejects it",
        "router": "a firewall on the path rejects this protocol",
        "this host": "a firewall rule on this host rejects this protocol",
    },
    "loop": {
        "target": "the packet arrived with a TTL too small to be forwarded: a routing loop behind that address",
        "router": "a routing loop on the path, or a TTL (hop limit) that is too small",
        "this host": "the TTL (hop limit) of this host is too small",
    },
    "fragments": {
        "target": "fragments are lost on the path, or a firewall drops them",
        "router": "fragments are lost before a router that puts them together again",
        "this host": "fragments of an answer are lost on the path back",
    },
    "too big": {
        "target": "our packets are too long for the network behind that address (an MTU problem)",
        "router": "our packets are too long for the path (an MTU problem)",
        "this host": "our packets are too long for our own network (an MTU problem)",
    },
    "header": {
        "target": "that host does not accept a header of our packets",
        "router": "a router on the path does not accept a header of our packets",
        "this host": "this host does not accept a header of our packets",
    },
    _UNKNOWN: {
        "target": "that host reports an error with no further meaning",
        "router": "a router on the path reports an error with no further meaning",
        "this host": "this host reports an error with no further meaning",
    },
}
"""The likely cause, by its kind and by who sent the message."""

_IN_WORDS: dict[Sender, str] = {
    "target": "the target",
    "router": "a router on the path",
    "this host": "this host",
}


class Icmp(NamedTuple):
    """One ICMP message: IP version, type, code, the address of its sender, and who that is."""

    version: Literal[4, 6]
    type: int
    code: int
    address: str | None
    sender: Sender

    @property
    def words(self) -> str:
        """What it says, and who said it."""
        version = "" if self.version == 4 else "v6"
        found = MESSAGES.get((self.version, self.type, self.code))
        name = found[0] if found else "unknown message"
        by = _IN_WORDS[self.sender]
        source = f"{self.address}, {by}" if self.address else by
        return f"{name} (ICMP{version} type {self.type} code {self.code}), reported by {source}"

    @property
    def cause(self) -> str:
        """What it probably means."""
        _, kind = MESSAGES.get((self.version, self.type, self.code), ("", _UNKNOWN))
        return CAUSES[kind][self.sender]

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --json` gives as ``icmp``."""
        return {"type": self.type, "code": self.code, "from": self.address}


def icmp_of(error: QueuedError, target: str, own: str | None) -> Icmp | None:
    """The ICMP message behind an error; None where it is not from ICMP.

    :param target: the address that was asked.
    :param own: our own source address, where it is known. What it sent, this host did: a rule of its own firewall, or
        no answer to its ARP or neighbour discovery.
    """
    if error.icmp_version is None:
        return None
    address = None if error.offender is None else Address.plain(error.offender).host
    is_ours = own is not None and address == _bare(own)
    sender: Sender = "router"
    if address is None:
        sender = "this host"
    elif address == _bare(target) or (ip_address(_bare(target)).is_unspecified and is_ours):
        sender = "target"  # what is sent to an unspecified address (0.0.0.0, ::) reaches this host itself
    elif is_ours:
        sender = "this host"
    return Icmp(error.icmp_version, error.type, error.code, address, sender)


def _bare(host: str) -> str:
    """An address as the error queue spells it: no zone, and no IPv4 address mapped into IPv6."""
    return Address.plain(host.partition("%")[0]).host
