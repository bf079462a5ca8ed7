"""The path's verdict: what we sent, held against what the server says arrived. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from attrs import evolve, frozen

from greetsvc.client.sent import OPTIONS, Sent
from greetsvc.visit import Address
from greetsvc.wire import PathRecord, decode_record

__all__ = ["Change", "PathVerdict", "Remark", "is_ours", "judge", "place"]

_OVER_IP = frozenset(["tcp", "tls", "udp"])


@frozen
class Change:
    """A number that left as one and arrived as another."""

    sent: int
    arrived: int


@frozen
class Remark:
    """A finding in words. ``notable`` when the path did something; ``key`` is the same for the same finding again."""

    text: str
    notable: bool
    key: str


@frozen
class PathVerdict:
    """What the path did to the packets of a probe.

    ``nat``: an address or port was translated; ``proxy``: another connection carried the greeting's last leg;
    ``hops``: routers that counted the TTL down; ``mss`` (bytes) and ``dscp``: changed on the way; ``stripped``: TCP
    options that we sent and that did not arrive. None where unchanged (``mss``, ``dscp``) or not known. ``instance``
    names the server's process that answered; ``remarks`` say all of it in words.
    """

    nat: bool
    proxy: bool
    hops: int | None
    mss: Change | None
    stripped: tuple[str, ...] | None
    dscp: Change | None
    instance: str
    remarks: tuple[Remark, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --json` gives as ``path``."""
        return {
            "nat": self.nat,
            "proxy": self.proxy,
            "hops": self.hops,
            "mss": self.mss and {"sent": self.mss.sent, "arrived": self.mss.arrived},
            "stripped": None if self.stripped is None else list(self.stripped),
            "dscp": self.dscp and {"sent": self.dscp.sent, "arrived": self.dscp.arrived},
            "instance": self.instance,
        }


def judge(sent: Sent, record: PathRecord) -> PathVerdict:
    """Hold a record against what was sent.

    Behind a proxy, ``syn`` and ``tcp`` are None: the packets that arrived were not ours. Where we sent a PROXY header
    ourselves and the server believed it, we are the proxy that it names.
    """
    believed = sent.claimed is not None and record.via is not None and _same(record.you, sent.claimed)
    seen = record.via if believed and record.via is not None else record.you
    local, syn, arrived = sent.local, record.syn, record.syn or record.datagram
    source = (local, seen) if local is not None and not _same(local, seen) else None
    moved = local is not None and _specified(record.me) and not _same(record.me, sent.asked)
    target = (sent.asked, record.me) if moved else None
    stripped = None
    if syn is not None and sent.offered is not None:
        there = {"timestamps": syn.timestamps, "sack": syn.sack, "wscale": syn.wscale is not None}
        stripped = tuple(name for name in OPTIONS if name in sent.offered and not there[name])
    verdict = PathVerdict(
        nat=bool(source or target),
        proxy=record.via is not None and not believed,
        hops=_hops(sent.ttl, arrived.ttl if arrived else None),
        mss=_change(sent.mss, syn.mss if syn else None),
        stripped=stripped,
        dscp=_change(sent.dscp, arrived.dscp if arrived else None),
        instance=record.instance,
    )
    remarks = [Remark(f"replica: {record.instance}", False, "replica")]
    if record.transport in _OVER_IP:
        remarks[:0] = [
            *_translation(source, target, known=local is not None),
            *_proxy(verdict, sent, record),
            *_packets(verdict, sent, record),
        ]
    return evolve(verdict, remarks=tuple(remarks))


def is_ours(answer: bytes, nonce: str | None) -> bool:
    """Whether an answer to a datagram is one to our request: a path record says whose it is."""
    record = decode_record(answer) if answer.startswith(b"{") else None
    return record is None or record.nonce == nonce


def place(address: Address) -> str:
    """An address as it is shown: ``192.0.2.1:8088``, ``[2001:db8::1]:8088``, or a path."""
    if not address.port:
        return address.host
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def _translation(
    source: tuple[Address, Address] | None, target: tuple[Address, Address] | None, *, known: bool
) -> Iterator[Remark]:
    if source is not None:
        ours, seen = source
        yield Remark(f"NAT: yes, {place(ours)} became {place(seen)}", True, f"NAT {ours.host} {seen.host}")
    if target is not None:
        asked, met = target
        yield Remark(f"NAT: yes, the target {place(asked)} became {place(met)}", True, f"NAT to {met}")
    if source is None and target is None:
        yield Remark("NAT: no" if known else "NAT: not known", False, "NAT")


def _proxy(verdict: PathVerdict, sent: Sent, record: PathRecord) -> Iterator[Remark]:
    if sent.claimed is not None and not _same(record.you, sent.claimed):
        text = f"PROXY header: it did not count, the server saw {place(record.you)}"
        yield Remark(text, True, "PROXY header")
    if verdict.proxy and record.via is not None:
        text = f"proxy: yes, {place(record.via)} passed the connection on; what arrived were its packets, not ours"
        yield Remark(text, True, f"proxy {record.via.host}")
    else:
        yield Remark("proxy: none that says so", False, "proxy")


def _packets(verdict: PathVerdict, sent: Sent, record: PathRecord) -> Iterator[Remark]:
    """What became of header fields and options, as far as it is known."""
    arrived = record.datagram if record.transport == "udp" else record.syn
    if record.via is not None:
        return
    if arrived is None:
        yield Remark(
            "hops, MSS, TCP options, DSCP: not known, the server does not tell what arrived", True, "arrived"
        )
        return
    yield _about_hops(verdict.hops)
    if record.syn is not None:
        yield _about_mss(verdict.mss, sent.mss, record.syn.mss)
        yield _about_options(verdict.stripped)
    yield _about_dscp(verdict.dscp, sent.dscp, arrived.dscp)
    if record.tcp is not None and record.tcp.retransmits:
        again = (
            f"retransmitted: {record.tcp.retransmits} of the server's first packets: packets are lost on the way back"
        )
        yield Remark(again, True, "retransmitted")


def _about_hops(hops: int | None) -> Remark:
    if hops is None:
        return Remark("hops: not known", False, "hops")
    return Remark(f"hops: {hops}", hops > 0, f"hops {hops}")


def _about_mss(change: Change | None, sent: int | None, arrived: int | None) -> Remark:
    if change is not None:
        how = "clamped" if change.arrived < change.sent else "raised"
        return Remark(f"MSS: {how}, {change.sent} became {change.arrived}", True, f"MSS {change}")
    if sent is not None and arrived is None:
        return Remark(f"MSS: stripped, {sent} was sent and none arrived", True, "MSS none")
    known = arrived if sent is None else f"{sent}, as sent"
    return Remark(f"MSS: {'not known' if known is None else known}", False, "MSS")


def _about_options(stripped: tuple[str, ...] | None) -> Remark:
    if stripped:
        return Remark(f"TCP options: {', '.join(stripped)} stripped", True, f"options {stripped}")
    return Remark(f"TCP options: {'not known' if stripped is None else 'none stripped'}", False, "options")


def _about_dscp(change: Change | None, sent: int | None, arrived: int | None) -> Remark:
    if change is not None:
        return Remark(f"DSCP: rewritten, {change.sent} became {change.arrived}", True, f"DSCP {change}")
    known = "not known" if arrived is None else f"{arrived} arrived" if sent is None else f"{sent}, as sent"
    return Remark(f"DSCP: {known}", False, "DSCP")


def _hops(sent: int | None, arrived: int | None) -> int | None:
    """Each router takes one off; more than was sent means that somebody else set it."""
    if sent is None or arrived is None or arrived > sent:
        return None
    return sent - arrived


def _change(sent: int | None, arrived: int | None) -> Change | None:
    return None if sent is None or arrived is None or sent == arrived else Change(sent, arrived)


def _specified(address: Address) -> bool:
    """Whether the server knows which of its addresses was asked."""
    return bool(address.port) and address.host not in {"", "0.0.0.0", "::"}


def _same(one: Address, other: Address) -> bool:
    return one.port == other.port and _canonical(one.host) == _canonical(other.host)


def _canonical(host: str) -> str:
    """One spelling; the zone of a link-local address means something on its own host only."""
    bare = Address.plain(host.partition("%")[0]).host
    try:
        return str(ip_address(bare))
    except ValueError:
        return host
