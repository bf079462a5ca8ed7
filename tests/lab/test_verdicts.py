"""Likely causes of failures that need a network of their own: drops, rejects, missing routes, resolvers."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from greetsvc.client.evidence.icmp import CAUSES

if TYPE_CHECKING:
    from greetsvc.client.evidence.icmp import Sender
    from tests.lab.conftest import Namespace, Network

Make = Callable[[int], "Network"]

OUTPUT = "type filter hook output priority 0"


def causes(node: Namespace, phase: str, number: str, *arguments: str) -> str:
    """The likely causes that `greet` tells, once it failed with this phase and errno."""
    failed = json.loads(node.run("greet", "--json", *arguments).stdout)
    assert (failed["phase"], errno.errorcode[failed["errno"]]) == (phase, number), failed
    done = node.run("greet", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    _, told = done.stderr.decode().splitlines()
    return told.partition(": likely: ")[2]


def test_packets_that_a_router_drops(network: Make) -> None:
    there = network(1)
    there.filter("drop")
    told = causes(there.client, "connect", "ETIMEDOUT", "-t", "2.5", there.host)
    start = "packets are dropped (no answer to 3 SYNs)"
    assert told == f"{start}: a firewall, no such host, no route back, or a server whose accept queue is full"
    told = causes(there.client, "greet", "ETIMEDOUT", "-t", "0.3", f"udp:{there.host}")
    assert told.startswith("the request or the answer was dropped, nothing answers there")


def test_packets_that_a_router_rejects(network: Make) -> None:
    there = network(1)
    there.filter("tcp dport 1 reject with tcp reset\n udp dport 1 reject\n reject with icmp type host-prohibited")
    told = causes(there.client, "connect", "ECONNREFUSED", f"{there.host}:1")
    assert told.endswith("or a firewall rejects it with a reset")
    told = causes(there.client, "greet", "ECONNREFUSED", f"udp:{there.host}:1")
    assert told == "a firewall on the path rejects it; whether the host is there is not known"
    for target, phase in ((f"{there.host}:2", "connect"), (f"udp:{there.host}:2", "greet")):
        told = causes(there.client, phase, "EHOSTUNREACH", target)
        assert told == "a firewall on the path forbids it; whether the host is there is not known"


def test_routes_and_hosts_that_are_missing(network: Make) -> None:
    there = network(1)
    for prefix, phase in (("", "connect"), ("udp:", "greet")):
        told = causes(there.client, phase, "ENETUNREACH", f"{prefix}10.9.9.9")
        assert told.startswith("a route is missing on this host")
        told = causes(there.client, phase, "EHOSTUNREACH", f"{prefix}10.0.1.99")
        assert told.startswith("that host does not answer on our own network")
        told = causes(there.client, phase, "EHOSTUNREACH", f"{prefix}10.0.2.99")
        assert told.startswith("that host does not answer its router")


def test_a_blackhole_route(network: Make) -> None:
    there = network(0)
    assert there.client.run("ip", "route", "add", "blackhole", "10.9.9.0/24").returncode == 0
    for prefix, phase in (("", "connect"), ("udp:", "greet")):
        told = causes(there.client, phase, "EINVAL", f"{prefix}10.9.9.9")
        assert told.startswith("a blackhole route of this host")


def test_rules_of_this_host(network: Make) -> None:
    there = network(0)
    done = there.client.run("ip", "route", "add", "prohibit", "10.9.9.0/24")
    assert done.returncode == 0
    assert causes(there.client, "connect", "EACCES", "10.9.9.9").endswith("or a rule on this host forbids it")
    table = f"table ip t {{\n chain c {{\n {OUTPUT};\n udp dport 8088 drop\n }}\n}}\n"
    assert there.client.run("nft", "-f", "-", given=table.encode()).returncode == 0
    assert causes(there.client, "greet", "EPERM", f"udp:{there.host}") == "a firewall on this host forbids it"


HERE = {4: ("10.0.1.1", "10.0.1.2", "10.0.2.2"), 6: ("fd00:1::1", "fd00:1::2", "fd00:2::2")}
"""The addresses of client, router and server."""


@pytest.fixture
def both(network: Make) -> Network:
    """A client, a router and a server, with IPv4 and IPv6."""
    there = network(1)
    ends = [(there.client, "right", "1::1"), (there.router, "left", "1::2")]
    ends += [(there.router, "right", "2::1"), (there.server, "left", "2::2")]
    for node, device, address in ends:
        done = node.run("ip", "-6", "address", "add", f"fd00:{address}/64", "dev", device, "nodad")
        assert done.returncode == 0, done.stderr
    there.router.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
    there.client.run("ip", "-6", "route", "add", "fd00:2::/64", "via", "fd00:1::2")
    there.server.run("ip", "-6", "route", "add", "fd00:1::/64", "via", "fd00:2::1")
    return there


def failed_by_icmp(client: Namespace, target: str) -> tuple[str, dict[str, object], str, str]:
    """The phase, the message as JSON has it, the error, and the likely cause."""
    failed = json.loads(client.run("greet", "--json", "-t", "8", target).stdout)
    done = client.run("greet", "-t", "8", target)
    assert done.returncode == 2
    _, told = done.stderr.decode().splitlines()
    return failed["phase"], failed["icmp"], failed["error"], told.partition(": likely: ")[2]


REJECTS = [
    # IP version, what nftables is to say, type and code, words, kind
    (4, "icmp type port-unreachable", 3, 3, "port unreachable", "no port"),
    (4, "icmp type host-unreachable", 3, 1, "host unreachable", "no host"),
    (4, "icmp type net-unreachable", 3, 0, "network unreachable", "no route"),
    (4, "icmp type prot-unreachable", 3, 2, "protocol unreachable", "no protocol"),
    (4, "icmp type net-prohibited", 3, 9, "network administratively prohibited", "prohibited"),
    (4, "icmp type host-prohibited", 3, 10, "host administratively prohibited", "prohibited"),
    (4, "icmp type admin-prohibited", 3, 13, "communication administratively prohibited", "prohibited"),
    (6, "icmpv6 type no-route", 1, 0, "no route to destination", "no route"),
    (6, "icmpv6 type admin-prohibited", 1, 1, "communication with destination administratively", "prohibited"),
    (6, "icmpv6 type addr-unreachable", 1, 3, "address unreachable", "no host"),
    (6, "icmpv6 type port-unreachable", 1, 4, "port unreachable", "no port"),
    (6, "icmpv6 type policy-fail", 1, 5, "source address failed ingress/egress policy", "source"),
    (6, "icmpv6 type reject-route", 1, 6, "reject route to destination", "prohibited"),
]


@pytest.mark.parametrize("sender", ["this host", "router", "target"])
@pytest.mark.parametrize(("version", "reject", "kind", "code", "words", "cause"), REJECTS)
def test_every_reject_is_told_with_its_message_and_its_sender(
    both: Network, sender: Sender, version: int, reject: str, kind: int, code: int, words: str, cause: str
) -> None:
    client, router, server = HERE[version]
    node, hook, address = {
        "this host": (both.client, "output", client),
        "router": (both.router, "forward", router),
        "target": (both.server, "input", server),
    }[sender]
    rule = f"meta l4proto {{ tcp, udp }} th dport 8088 reject with {reject}"
    chain = f"type filter hook {hook} priority 0"
    table = f"table {'ip' if version == 4 else 'ip6'} t {{\n chain c {{\n {chain};\n {rule}\n }}\n}}\n"
    done = node.run("nft", "-f", "-", given=table.encode())
    assert done.returncode == 0, done.stderr.decode()
    target = server if version == 4 else f"[{server}]"
    phase, icmp, error, told = failed_by_icmp(both.client, target)
    assert (phase, icmp) == ("connect", {"type": kind, "code": code, "from": address}), error
    assert words in error
    assert f"reported by {address}" in error
    assert told == CAUSES[cause][sender]
    if sender != "this host":  # there the kernel refuses the datagram itself: EPERM
        phase, icmp, _, told = failed_by_icmp(both.client, f"udp:{target}")
        assert (phase, icmp) == ("greet", {"type": kind, "code": code, "from": address})
        assert told == CAUSES[cause][sender]


@pytest.mark.parametrize("prefix", ["", "udp:"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_routing_loop_is_told_with_the_router_that_found_it(both: Network, version: int, prefix: str) -> None:
    _, router, server = HERE[version]
    lost, back = ("10.7.7.7", "10.0.2.1") if version == 4 else ("fd00:7::7", "fd00:2::1")
    for node, via in ((both.client, router), (both.router, server), (both.server, back)):
        assert node.run("ip", "route", "add", lost, "via", via).returncode == 0
    both.server.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    target = lost if version == 4 else f"[{lost}]"
    _, icmp, error, told = failed_by_icmp(both.client, f"{prefix}{target}")
    assert (icmp["type"], icmp["code"]) == ((11, 0) if version == 4 else (3, 0)), error
    assert told == CAUSES["loop"]["router"]


def test_a_load_run_counts_failures_by_the_message(both: Network) -> None:
    both.router.run("sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0")
    both.filter("tcp dport 8088 reject with icmp type admin-prohibited")
    both.filter("udp dport 8088 reject with icmp type host-prohibited")
    for prefix in ("", "udp:"):
        done = both.client.run("greet", "--json", "--duration", "0.5", "--concurrency", "2", f"{prefix}10.0.2.2")
        assert done.returncode == 2
        (failure,) = json.loads(done.stdout.splitlines()[-1])["summary"]["failed"]
        words = "host administratively prohibited (ICMP type 3 code 10)"
        if not prefix:
            words = "communication administratively prohibited (ICMP type 3 code 13)"
        assert f"{words}, reported by 10.0.1.2, a router on the path" in failure["error"]


@pytest.fixture
def resolving(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace whose resolver is its own loopback; `ip netns exec` puts these files over those in /etc."""
    folder = Path("/etc/netns") / namespace.name
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
        (folder / "nsswitch.conf").write_text("hosts: dns\n")
        yield namespace
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


NO_SUCH_NAME = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 53))
    print("ready", flush=True)
    while True:
        query, client = sock.recvfrom(512)
        if {answering}:
            sock.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], client)
"""


def test_a_resolver_that_is_not_there_knows_nothing_or_is_silent(resolving: Namespace) -> None:
    told = causes(resolving, "resolve", "EAGAIN", "greet.example")
    assert told.startswith("the resolver cannot be reached or has failed")
    resolver = resolving.start("python", "-c", NO_SUCH_NAME.format(answering=True), until="ready")
    assert causes(resolving, "resolve", "ENOENT", "greet.example").startswith("the name is mistyped or not published")
    resolver.stop()
    resolving.start("python", "-c", NO_SUCH_NAME.format(answering=False), until="ready")
    told = causes(resolving, "resolve", "ETIMEDOUT", "-t", "0.5", "greet.example")
    assert told.startswith("the resolver does not answer")
