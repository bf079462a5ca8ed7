"""Faults of this host that need a network of their own: no source port left, and no IPv6."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Namespace

HOLD = """
import socket, time
held = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for port in (40000, 40001):
        held.append(socket.socket(socket.AF_INET6, kind))
        held[-1].bind(("::", port))
print("held", flush=True)
time.sleep(60)
"""
PORTS = "this host has no free source port"
IPV6 = "this host has no IPv6 address"


@pytest.mark.parametrize("target", ["127.0.0.1", "udp:127.0.0.1", "[::1]", "udp:[::1]"])
def test_no_source_port_is_left(namespace: Namespace, target: str) -> None:
    namespace.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001")
    namespace.start("python", "-c", HOLD, until="held")
    done = namespace.run("greet", "-t", "2", target)
    failed, cause = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert failed.endswith(f"Cannot assign requested address: {PORTS}")
    assert "net.ipv4.ip_local_port_range" in cause
    done = namespace.run("greet", "--json", "--duration", "1", "--concurrency", "2", target)
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert [PORTS in failure["error"] for failure in summary["failed"]] == [True]
    assert f"had no free source port for {summary['lost']} probes" in summary["warnings"][0]
    assert summary["cpu"] < 0.5, "a probe that fails at once is not tried without pause"


@pytest.mark.parametrize("target", ["[::1]", "udp:[::1]", "[fd00::1]", "udp:[fd00::1]"])
def test_ipv6_is_turned_off(namespace: Namespace, target: str) -> None:
    namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    done = namespace.run("greet", "-t", "2", target)
    failed, cause = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert failed.endswith(IPV6)
    assert cause.endswith("IPv6 is turned off on this host: ask for an IPv4 address, or turn it on")
    done = namespace.run("greet", "--json", "--duration", "0.3", target)
    assert IPV6 in json.loads(done.stdout.splitlines()[-1])["summary"]["failed"][0]["error"]


@pytest.mark.parametrize("target", ["127.0.0.1", "udp:127.0.0.1", "[::1]", "udp:[::1]", "localhost"])
def test_the_loopback_interface_is_down(namespace: Namespace, target: str) -> None:
    namespace.run("ip", "link", "set", "lo", "down")
    done = namespace.run("greet", "-t", "1", target)
    failed, cause = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert "the loopback interface of this host is down" in failed
    assert cause.endswith("likely: turn it on: ip link set lo up")


@pytest.mark.parametrize("mode", ["--mtu", "--trace"])
def test_no_source_port_is_left_for_what_is_asked_of_the_route(namespace: Namespace, mode: str) -> None:
    namespace.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001")
    namespace.start("python", "-c", HOLD, until="held")
    done = namespace.run("greet", "-t", "2", "--json", mode, "udp:127.0.0.1")
    assert done.returncode == 2
    if mode == "--mtu":
        assert PORTS in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("target", ["10.99.0.1", "udp:10.99.0.1", "[fd99::1]", "udp:[fd99::1]"])
def test_a_gateway_that_does_not_answer_is_not_the_target(namespace: Namespace, target: str) -> None:
    for command in (
        *("link add up0 type veth peer name up1", "link set up1 up", "addr add 10.98.0.1/24 dev up0"),
        *("addr add fd98::1/64 dev up0 nodad", "link set up0 up", "route add default via 10.98.0.9"),
        "-6 route add default via fd98::9",
    ):
        namespace.run("ip", *command.split())
    done = namespace.run("greet", "-t", "5", target)
    assert done.returncode == 2
    assert b"or the gateway to it does not" in done.stderr
