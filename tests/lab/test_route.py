"""Traces over real routers: each hop is named, also where one is silent or the path ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Network

Make = Callable[[int], "Network"]

SILENT = "icmp type time-exceeded drop"


@pytest.fixture
def lab(network: Make) -> Callable[..., Network]:
    """Makes a network of IPv4 and IPv6 with a server."""

    def make(routers: int) -> Network:
        there = network(routers)
        there.wire_v6()
        there.server.twistd(
            "--listen", "tcp:8088:interface=\\:\\:", "--listen", "udp:8088:interface=\\:\\:", listeners=2
        )
        return there

    return make


def hops(here: Network, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """The objects of a trace."""
    done = here.client.run("greet", "--trace", "--json", *arguments)
    assert (done.returncode, done.stderr) == (status, b""), (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_trace_names_three_routers_and_stops_at_the_service(lab: Make) -> None:
    there = lab(3)
    for target, addresses in (
        (there.host, ["10.0.1.2", "10.0.2.2", "10.0.3.2", "10.0.4.2"]),
        (f"[{there.host_v6}]", ["fd00:1::2", "fd00:2::2", "fd00:3::2", "fd00:4::2"]),
    ):
        for transport in ("tcp", "udp"):
            found = hops(there, f"{transport}:{target}:8088")
            assert [(hop["hop"], hop["address"]) for hop in found] == list(enumerate(addresses, 1))
            assert [hop["reached"] for hop in found] == [False, False, False, True]
            assert all(0 < hop["seconds"] < 5 for hop in found)
    text = there.client.run("greet", "--trace", there.host)
    assert re.sub(r"[0-9.]+ ms", "T ms", text.stdout.decode()).splitlines() == [
        " 1  10.0.1.2  T ms",
        " 2  10.0.2.2  T ms",
        " 3  10.0.3.2  T ms",
        " 4  10.0.4.2  T ms  the target",
    ]


def test_a_trace_passes_a_silent_router(lab: Make) -> None:
    there = lab(3)
    there.rule(2, SILENT, "type filter hook output priority 0")
    for target in (there.host, f"udp:{there.host}"):
        found = hops(there, target)
        assert [hop["address"] for hop in found] == ["10.0.1.2", None, "10.0.3.2", "10.0.4.2"]
        assert found[1] == {"hop": 2, "address": None, "seconds": None, "reached": False}


def test_a_trace_names_where_packets_stop(lab: Make) -> None:
    there = lab(3)
    for port, rule in ((9, "drop"), (10, "reject with icmp host-prohibited")):
        there.rule(2, f"meta l4proto {{ tcp, udp }} th dport {port} {rule}", "type filter hook forward priority 0")
    done = there.client.run("greet", "--trace", f"{there.host}:9")
    assert done.returncode == 2
    words = "nothing answers from hop 3 on, and neither does the target; hop 2, 10.0.2.2, is the last that answers"
    assert words in done.stderr.decode()
    for transport in ("tcp", "udp"):
        found = hops(there, f"{transport}:{there.host}:10", status=2)
        assert [hop["address"] for hop in found] == ["10.0.1.2", "10.0.2.2", "10.0.2.2"]
        assert found[2]["icmp"] == {"type": 3, "code": 10, "from": "10.0.2.2"}
        assert not found[2]["reached"]
    refused = there.client.run("greet", "--trace", f"{there.host}:11")
    assert "the target answers at hop 4: Connection refused: a reset in its name" in refused.stderr.decode()


def mtus(here: Network) -> list[dict[str, Any]]:
    """What ``--mtu`` finds over IPv4 and over IPv6."""

    def one(host: str) -> dict[str, Any]:
        done = here.client.run("greet", "--mtu", "--json", f"udp:{host}:8088")
        assert done.stderr == b""
        found: dict[str, Any] = json.loads(done.stdout)["mtu"]
        assert done.returncode == int(bool(found["black_hole"]))
        return found

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, (here.host, f"[{here.host_v6}]")))


CASES = [
    (1500, 1500, 1500),
    (1500, 1400, 1280),
    (1500, 1280, 1500),
    (9000, 9000, 9000),
    (9000, 1500, 8999),
]
"""The MTU of the links, and what the router forwards there and back."""


def test_the_largest_packets_are_found_to_the_byte(lab: Make) -> None:
    network = lab(1)
    for links, there, back in CASES:
        network.jumbo(links)
        network.limit(there=there, back=back)
        by = "10.0.1.2", "fd00:1::2"
        for found, router in zip(mtus(network), by if there < links else (None, None), strict=True):
            expected = {"there": there, "back": back, "icmp_from": router, "black_hole": False}
            assert found == expected, (links, there, back)


def test_the_largest_packets_of_a_black_hole_are_found_to_the_byte(lab: Make) -> None:
    network = lab(1)
    network.no_icmp()
    for links, there, back in (CASES[1], CASES[4]):
        network.jumbo(links)
        network.limit(there=there, back=back)
        for found in mtus(network):
            assert found == {"there": there, "back": back, "icmp_from": None, "black_hole": True}, (there, back)
    text = network.client.run("greet", "--mtu", f"udp:{network.host}").stdout.decode().splitlines()
    assert text == [
        "there: 1500 bytes; longer ones are lost, and no ICMP message says so: a black hole",
        "back: 8999 bytes; longer ones are lost",
    ]


def test_flows_that_take_another_link_are_told_apart(lab: Make) -> None:
    there = lab(2)
    there.second_link(1)
    found = hops(there, "--flows", "4", "--source-port", "40110", there.host)
    assert {(hop["flow"], hop["source_port"]) for hop in found} == {(n, 40109 + n) for n in range(1, 5)}
    second = {hop["flow"]: hop["address"] for hop in found if hop["hop"] == 2}
    assert second == {1: "10.0.2.2", 2: "10.9.0.2", 3: "10.0.2.2", 4: "10.9.0.2"}
    text = there.client.run("greet", "--trace", "--flows", "4", "--source-port", "40110", there.host)
    assert "the paths differ at hop 2: 10.0.2.2 (flows 1, 3), 10.9.0.2 (flows 2, 4)" in text.stdout.decode()
