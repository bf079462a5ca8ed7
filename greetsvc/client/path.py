"""What the path did to the packets of a probe: what we sent, compared with what the server reports. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from attrs import asdict, evolve, frozen

from greetsvc.client.target import format_address
from greetsvc.net.linux.packets import Syn
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.visit import Address
from greetsvc.wire import PathRecord

__all__ = ["TCP_OPTIONS", "Change", "PathChanges", "PathNote", "Sent", "compare"]

TCP_OPTIONS = ("timestamps", "sack", "wscale")
"""The options of a SYN that a path may strip."""

_OVER_IP = frozenset(["tcp", "tls", "udp"])
_TICKS = 4
"""Milliseconds by which two readings of one clock may differ: a tick, and a bit that the kernel hides."""
_TIMESTAMPS_SPACE = 12
"""Bytes of each segment that timestamps take once both ends have agreed on them (RFC 7323 appendix A)."""


@frozen
class Sent:
    """What we sent, as our own side knows it; None where the system does not tell.

    ``ttl`` is the TTL or hop limit, ``nonce`` that of a datagram request, ``claimed`` the source in a PROXY header.
    ``tcp`` is the state of the connection once it was established or given up, ``offered`` the options of our SYN.
    ``timestamp`` is the TCP time stamp at that moment, ``since`` seconds after our first SYN. ``later`` is the state
    when the first byte came, or when the time was over.
    """

    destination: Address
    local: Address | None = None
    ttl: int | None = None
    dscp: int | None = None
    nonce: str | None = None
    claimed: Address | None = None
    tcp: TcpInfo | None = None
    offered: frozenset[str] | None = None
    timestamp: int | None = None
    since: float | None = None
    later: TcpInfo | None = None

    @property
    def mss(self) -> int | None:
        """The MSS in our SYN, in bytes: Linux subtracts the space of timestamps from the value that it keeps."""
        if self.tcp is None:
            return None
        return self.tcp.advertised_mss + (_TIMESTAMPS_SPACE if self.tcp.timestamps else 0)

    @property
    def syns(self) -> int | None:
        """How often our SYN was sent, up to the moment of ``tcp``."""
        return None if self.tcp is None else self.tcp.retransmits + 1


@frozen
class Change:
    """A number that was sent with one value and arrived with another."""

    sent: int
    arrived: int


@frozen
class PathNote:
    """One statement about the path. ``notable`` when the path did something; ``key`` identifies repeats of it."""

    text: str
    notable: bool
    key: str


@frozen
class PathChanges:
    """What the path did to the packets of a probe.

    ``nat``: an address or port was translated; ``proxy``: a proxy forwarded the connection; ``hops``: routers that
    decremented the TTL; ``mss`` (bytes) and ``dscp``: changed on the way; ``stripped``: TCP options that we sent and
    that did not arrive. None where unchanged (``mss``, ``dscp``) or not known: when both addresses changed, it may be
    NAT or a proxy, and the packets that arrived may be the proxy's. ``instance`` names the server process
    that answered; ``notes`` say all of it in words.
    """

    nat: bool | None
    proxy: bool | None
    hops: int | None
    mss: Change | None
    stripped: tuple[str, ...] | None
    dscp: Change | None
    instance: str
    notes: tuple[PathNote, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --json` gives as ``path``."""
        return asdict(self, filter=lambda attribute, _: attribute.name != "notes")


def compare(sent: Sent, record: PathRecord) -> PathChanges:
    """Compare what was sent with what the server's record says arrived.

    Behind a proxy, ``syn`` and ``tcp`` are None: the packets that arrived were the proxy's. Where we sent a PROXY
    header ourselves and the server accepted it, the proxy that it names is us. A proxy that does not say so changes
    both addresses, as two translations do; only the time stamp of the SYN then tells whose packets arrived.
    """
    accepted = sent.claimed is not None and record.via is not None and _same(record.you, sent.claimed)
    seen = record.via if accepted and record.via is not None else record.you
    local = sent.local or Address("", 0)
    source, target = _changed(local, seen), _changed(sent.destination, record.me) if sent.local else None
    known = all(map(_specified, (local, seen, sent.destination, record.me)))
    ours = None if record.syn is None else _is_ours(sent, record.syn, source or target)
    unclear = source is not None and target is not None and ours is None
    hidden = unclear or ours is False
    syn, arrived = (None, None) if hidden else (record.syn, record.syn or record.datagram)
    stripped = None
    if syn is not None and sent.offered is not None:
        there = {"timestamps": syn.timestamps, "sack": syn.sack, "wscale": syn.wscale is not None}
        stripped = tuple(name for name in TCP_OPTIONS if name in sent.offered and not there[name])
    changes = PathChanges(
        nat=None if hidden or _unspecified(sent.destination.host) else bool(source or target),
        proxy=None if unclear and record.via is None else ours is False or (record.via is not None and not accepted),
        hops=_hops(sent.ttl, arrived.ttl if arrived else None),
        mss=_change(sent.mss, syn.mss if syn else None),
        stripped=stripped,
        dscp=_change(sent.dscp, arrived.dscp if arrived else None),
        instance=record.instance,
    )
    notes = [PathNote(f"replica: {record.instance}", False, "replica")]
    if record.transport in _OVER_IP and ours is False:
        notes.insert(0, _ended(sent, record))
    elif record.transport in _OVER_IP:
        same = known or (_same(local, seen) and _same(sent.destination, record.me))
        notes[:0] = [
            *_translation(source, target, known=same, ours=ours),
            *_proxy(changes, sent, record),
            *_packets(changes, sent, record),
        ]
    return evolve(changes, notes=tuple(notes))


def _is_ours(sent: Sent, syn: Syn, changed: tuple[Address, Address] | None) -> bool | None:
    """Whether the SYN that arrived is ours, by its time stamp; None where that does not tell.

    NAT leaves time stamps alone; a proxy sends SYNs of its own. The kernel counts milliseconds from a random start
    that belongs to the two addresses. So a foreign stamp lies by chance within the time that our connecting took in
    fewer than one of 100,000 cases while that is less than 40 s. A proxy of this host between the same two addresses
    has the same start as we do: where nothing but a port has changed, equal stamps tell nothing.
    """
    if sent.timestamp is None or sent.since is None or syn.tsval is None:
        return None
    age = (sent.timestamp - syn.tsval + _TICKS) % 2**32
    if age > 1000 * sent.since + 2 * _TICKS:
        return False
    return None if changed is not None and _canonical(changed[0].host) == _canonical(changed[1].host) else True


def _ended(sent: Sent, record: PathRecord) -> PathNote:
    """A proxy ended our connection, and opened one of its own."""
    text = f"proxy: yes, a proxy ends the connection: its own came to the server, from {format_address(record.you)}"
    if not _same(sent.destination, record.me):
        text += f" to {format_address(record.me)}"
    text += "; NAT, hops, MSS, TCP options and DSCP of ours are not known"
    return PathNote(text, True, f"proxy {record.you.host}")


def _translation(
    source: tuple[Address, Address] | None, target: tuple[Address, Address] | None, *, known: bool, ours: bool | None
) -> Iterator[PathNote]:
    told = [f"{format_address(before)} became {format_address(after)}" for before, after in filter(None, [source])]
    told += [f"the target {format_address(old)} became {format_address(new)}" for old, new in filter(None, [target])]
    key = f"NAT {source and (source[0].host, source[1].host)} {target and target[1]}"
    if told and ours:
        yield PathNote(f"NAT: yes, {', and '.join(told)}", True, key)
    elif source is not None and target is not None:
        yield PathNote(f"NAT, or a proxy that does not say so: {', and '.join(told)}", True, key)
    elif told:
        yield PathNote(f"NAT: likely, {told[0]}", True, key)
    else:
        yield PathNote("NAT: no" if known else "NAT: not known", False, "NAT")


def _proxy(changes: PathChanges, sent: Sent, record: PathRecord) -> Iterator[PathNote]:
    if sent.claimed is not None and not _same(record.you, sent.claimed):
        text = f"PROXY header: ignored, the server saw {format_address(record.you)}"
        yield PathNote(text, True, "PROXY header")
    if changes.proxy and record.via is not None:
        via = format_address(record.via)
        text = f"proxy: yes, {via} forwarded the connection; the packets that arrived were its own, not ours"
        yield PathNote(text, True, f"proxy {record.via.host}")
    else:
        yield PathNote(f"proxy: {'not known' if changes.proxy is None else 'none reported'}", False, "proxy")


def _packets(changes: PathChanges, sent: Sent, record: PathRecord) -> Iterator[PathNote]:
    """What became of header fields and options, as far as it is known."""
    arrived = record.datagram if record.transport == "udp" else record.syn
    if record.via is not None:
        return
    if changes.proxy is None:
        text = "hops, MSS, TCP options, DSCP: not known, the packets that arrived may be those of a proxy"
        yield PathNote(text, True, "arrived")
        return
    if arrived is None:
        text = "hops, MSS, TCP options, DSCP: not known, the server does not report what arrived"
        yield PathNote(text, True, "arrived")
        return
    hops, stripped = changes.hops, changes.stripped
    yield PathNote(f"hops: {'not known' if hops is None else hops}", bool(hops), f"hops {hops}")
    if record.syn is not None:
        yield _mss_note(changes.mss, sent.mss, record.syn.mss)
        what = "not known" if stripped is None else f"{', '.join(stripped) or 'none'} stripped"
        yield PathNote(f"TCP options: {what}", bool(stripped), f"options {stripped}")
    yield _dscp_note(changes.dscp, sent.dscp, arrived.dscp)


def _mss_note(change: Change | None, sent: int | None, arrived: int | None) -> PathNote:
    if change is not None:
        how = "clamped" if change.arrived < change.sent else "raised"
        return PathNote(f"MSS: {how}, {change.sent} became {change.arrived}", True, f"MSS {change}")
    if sent is not None and arrived is None:
        return PathNote(f"MSS: stripped, {sent} was sent and none arrived", True, "MSS none")
    known = arrived if sent is None else f"{sent}, as sent"
    return PathNote(f"MSS: {'not known' if known is None else known}", False, "MSS")


def _dscp_note(change: Change | None, sent: int | None, arrived: int | None) -> PathNote:
    if change is not None:
        return PathNote(f"DSCP: rewritten, {change.sent} became {change.arrived}", True, f"DSCP {change}")
    known = "not known" if arrived is None else f"{arrived} arrived" if sent is None else f"{sent}, as sent"
    return PathNote(f"DSCP: {known}", False, "DSCP")


def _hops(sent: int | None, arrived: int | None) -> int | None:
    """Each router takes one off the TTL. When more arrived than was sent, a middlebox has set it."""
    if sent is None or arrived is None or arrived > sent:
        return None
    return sent - arrived


def _change(sent: int | None, arrived: int | None) -> Change | None:
    return None if sent is None or arrived is None or sent == arrived else Change(sent, arrived)


def _changed(before: Address, after: Address) -> tuple[Address, Address] | None:
    """The two when one became the other; None also where one of them does not say which host it is."""
    known = _specified(before) and _specified(after)
    return (before, after) if known and not _same(before, after) else None


def _specified(address: Address) -> bool:
    """Whether an address says which host it is: a link-local one needs its zone for that (RFC 4007 6)."""
    host, _, zone = address.host.partition("%")
    link_local = not zone and host.lower().startswith(("fe8", "fe9", "fea", "feb")) and ":" in host
    return bool(address.port and host) and not link_local and not _unspecified(host)


def _unspecified(host: str) -> bool:
    return _canonical(host) in {"0.0.0.0", "::"}


def _same(one: Address, other: Address) -> bool:
    return one.port == other.port and _canonical(one.host) == _canonical(other.host)


def _canonical(host: str) -> str:
    """One spelling, without the zone of a link-local address, which has a meaning on its own host only."""
    bare = Address.plain(host.partition("%")[0]).host
    try:
        return str(ip_address(bare))
    except ValueError:
        return host
