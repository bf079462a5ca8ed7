"""What `greet` says of a TCP handshake, and of NAT and proxies, where it is known what happens on the path."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.test_path import MASQUERADE, start_haproxy

if TYPE_CHECKING:
    from tests.lab.conftest import Network

Make = Callable[[int], "Network"]

FIRST = "numgen inc mod 1000000 == 0 drop"
"""Drops the first packet of those that a rule matches."""

SYN_PROXY = """
table ip proxy {
 chain before { type filter hook prerouting priority raw;
  tcp flags syn tcp dport 8088 notrack;
 }
 chain through { type filter hook forward priority 0;
  tcp dport 8088 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm;
  ct state invalid drop;
 }
}
"""

SLOW = str(Path(__file__).parents[1] / "support" / "slow_router.py")


@pytest.fixture
def there(network: Make) -> Network:
    """A network with one router, whose server answers with the path record."""
    made = network(1)
    made.server.twistd("--listen", "tcp:8088", "--greeter", "path")
    return made


def told(there: Network, *arguments: str) -> tuple[list[int | None], str, dict[str, Any]]:
    """The counts, the words of a probe in text, and the path in JSON, of a run of both."""
    found = json.loads(there.client.run("greet", "--json", *arguments, there.host).stdout)
    assert found["ok"], found
    return list(found["direction"].values()), found["greeting"], found["path"]


def words(there: Network) -> str:
    return there.client.run("greet", there.host).stderr.decode()


LOSSES = [
    ("tcp flags & (syn|ack) == syn", [1, 0, 0], "SYN: lost once on the way there"),
    ("tcp flags & (syn|ack) == syn|ack", [0, 1, 0], "SYN-ACK: lost once on the way back"),
    ("tcp dport 8088 tcp flags & (syn|ack) == ack", [0, 0, 1], "ACK: lost once on the way there"),
]
"""Packets of which the router drops the first, what is then counted, and how it is told."""


def test_the_packet_of_the_handshake_that_was_lost_is_named(there: Network) -> None:
    for rule, counts, said in LOSSES:
        table = there.filter(f"{rule} {FIRST}")
        found, *_ = told(there)
        assert found == counts
        there.router.run("nft", "delete", "table", "ip", table)
        table = there.filter(f"{rule} {FIRST}")
        assert f"greet: tcp:10.0.2.2:8088: {said}" in words(there)
        there.router.run("nft", "delete", "table", "ip", table)


def test_nothing_is_lost_on_a_path_that_is_only_slow(there: Network) -> None:
    there.router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    there.router.start(sys.executable, SLOW, "0.75", "10.0.1.2", "10.0.2.1", until="passing")
    found, *_ = told(there)
    assert found == [0, 0, 0]
    assert (
        "slow: the round trip takes 1.5 s, longer than the 1 s after which SYNs are sent again; nothing is lost"
        in (words(there))
    )


def test_a_syn_proxy_is_not_told_as_loss(there: Network) -> None:
    assert there.router.run("nft", "-f", "-", given=SYN_PROXY.encode()).returncode == 0
    there.router.run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=0")
    found, *_ = told(there)
    assert found in ([None] * 3, [0, 0, 0])
    assert " lost on the way" not in words(there)


def test_a_greeting_that_an_mtu_black_hole_swallows_is_told_from_silence(network: Make) -> None:
    there = network(1)
    (there.server.folder / "long").write_bytes(b"x" * 4000)
    there.server.twistd("--listen", "tcp:8088", "--greeter", "file:long")
    silent = there.server.start("nc", "-nvlk", "8090", until="istening")
    there.router.run("ip", "link", "set", "left", "mtu", "1300")
    there.filter("icmp type destination-unreachable drop", "type filter hook output priority 0")
    swallowed = there.client.run("greet", "-t", "1.5", there.host)
    assert swallowed.returncode == 2
    assert "likely: long packets of the server are lost and short ones arrive" in swallowed.stderr.decode()
    assert (
        "long packets of the server" not in there.client.run("greet", "-t", "1", f"{there.host}:8090").stderr.decode()
    )
    assert silent.said()


def probes(there: Network, target: str, count: int = 20) -> list[dict[str, Any]]:
    done = there.client.run("greet", "--json", "-c", str(count), "-i", "0", target)
    *found, _ = [json.loads(line)["path"] for line in done.stdout.splitlines()[:-1]] + [None]
    return found


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend greet
    bind 10.0.1.2:8088
    default_backend service
backend service
    server one {host}:8088
"""


def test_nat_and_a_proxy_without_header_are_told_apart_each_time(there: Network) -> None:
    there.filter(*MASQUERADE)
    there.filter("ip daddr 10.0.1.2 tcp dport 9000 dnat to 10.0.2.2:8088", "type nat hook prerouting priority -100")
    for target in ("10.0.2.2:8088", "10.0.1.2:9000"):
        behind_nat = probes(there, target)
        assert len(behind_nat) == 20
        assert {(path["nat"], path["proxy"], path["hops"]) for path in behind_nat} == {(True, False, 1)}
    haproxy = start_haproxy(there.router, HAPROXY.format(host=there.host))
    behind_proxy = probes(there, "10.0.1.2:8088")
    assert len(behind_proxy) == 20, haproxy.said()
    hidden = dict.fromkeys(("nat", "hops", "mss", "stripped", "dscp"))
    assert all({key: path[key] for key in hidden} == hidden and path["proxy"] for path in behind_proxy)
    text = there.client.run("greet", "10.0.1.2:8088").stderr.decode()
    assert "proxy: yes, a proxy ends the connection: its own came to the server, from 10.0.2.1:" in text
    there.filter("tcp flags syn reset tcp option timestamp")
    undecided = probes(there, "10.0.1.2:9000", 2)
    assert {(path["nat"], path["proxy"]) for path in undecided} == {(None, None)}
