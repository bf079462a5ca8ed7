"""Likely causes of failures that need a network of their own: drops, rejects, missing routes, resolvers."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
    assert told.startswith("ICMP port unreachable: nothing listens on that UDP port")
    for target, phase in ((f"{there.host}:2", "connect"), (f"udp:{there.host}:2", "greet")):
        assert causes(there.client, phase, "EHOSTUNREACH", target).endswith("or a firewall rejects")


def test_routes_and_hosts_that_are_missing(network: Make) -> None:
    there = network(1)
    for prefix, phase in (("", "connect"), ("udp:", "greet")):
        told = causes(there.client, phase, "ENETUNREACH", f"{prefix}10.9.9.9")
        assert told.startswith("this host, or a router on the path, has no route to that network")
        told = causes(there.client, phase, "EHOSTUNREACH", f"{prefix}10.0.1.99")
        assert told.startswith("a route is missing, the host does not answer on its own network")


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
