"""What the hops of a trace say, in words and in JSON."""

from __future__ import annotations

import json

import pytest

from greetsvc.client.evidence.icmp import Icmp, Sender
from greetsvc.client.report.route import JsonTraceReport, TextTraceReport
from greetsvc.client.route.hops import MAX_HOPS, Flow, Hop, Reply, numbers, partings
from greetsvc.client.target import parse

TARGET = parse("192.0.2.9:8088")
SERVED = Reply("192.0.2.9", 0.004)
REFUSED = Reply("192.0.2.9", 0.004, error="Connection refused: a reset in its name")


def passed(address: str) -> Reply:
    """A router says that the TTL ran out there."""
    return Reply(address, 0.001, Icmp(4, 11, 0, address, "router"))


def stopped(address: str, sender: Sender = "router", code: int = 10) -> Reply:
    return Reply(address, 0.002, Icmp(4, 3, code, address, sender))


def flow(*replies: Reply | None, port: int = 40111, beyond: Reply | None = None, late: bool = False) -> Flow:
    return Flow(port, [Hop(number, reply) for number, reply in enumerate(replies, 1)], beyond, late)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (flow(passed("10.0.1.2"), SERVED), ""),
        (flow(None, REFUSED), "the target answers at hop 2: Connection refused: a reset in its name"),
        (
            flow(passed("10.0.1.2"), stopped("192.0.2.9", "target", 3)),
            "the target answers at hop 2: port unreachable (ICMP type 3 code 3), reported by 192.0.2.9, the target",
        ),
        (
            flow(passed("10.0.1.2"), stopped("10.0.2.2")),
            "packets stop at hop 2: host administratively prohibited (ICMP type 3 code 10), reported by 10.0.2.2, "
            "a router on the path",
        ),
        (
            flow(passed("10.0.1.2"), None, passed("10.0.3.2"), None, None),
            "nothing answers from hop 4 on, and neither does the target; hop 3, 10.0.3.2, is the last that answers",
        ),
        (flow(None, None), "nothing answers from hop 1 on, and neither does the target; no hop answers"),
        (flow(late=True), "the time-out (-t) ended the trace; no hop answers"),
        (
            flow(passed("10.0.1.2"), None, beyond=stopped("10.0.3.2", code=1)),
            "packets stop beyond: host unreachable (ICMP type 3 code 1), reported by 10.0.3.2, a router on the path; "
            "hop 1, 10.0.1.2, is the last that answers",
        ),
        (
            flow(*[passed(f"10.0.{at}.2") for at in range(MAX_HOPS)]),
            "the target is more than 30 hops away; hop 30, 10.0.29.2, is the last that answers",
        ),
        (
            flow(passed("10.0.1.2"), *[passed(f"10.0.{2 + at % 2}.2") for at in range(5)]),
            "packets go round in a loop, by 10.0.2.2, 10.0.3.2",
        ),
        (
            Flow(40111, [Hop(0, stopped("10.0.1.1", "this host", 1))]),
            "packets stop at this host: host unreachable (ICMP type 3 code 1), reported by 10.0.1.1, this host",
        ),
    ],
)
def test_a_flow_says_how_its_path_ends(found: Flow, words: str) -> None:
    assert found.words() == words
    assert found.served == (not words)


def test_a_router_with_the_address_of_the_target_is_not_the_target() -> None:
    """NAT and load balancers have the address of the service, and pass on what is for it."""
    hop = Hop(1, Reply("192.0.2.9", 0.1, Icmp(4, 11, 0, "192.0.2.9", "target")))
    assert not hop.reached
    assert not flow(hop.reply).end


def test_json_has_one_object_for_each_hop() -> None:
    one, two = JsonTraceReport([40111]), JsonTraceReport([40111, 40112])
    assert [
        json.loads(line) for hop in flow(passed("10.0.1.2"), None, SERVED).hops for line in one.hop(0, hop).out
    ] == [
        {"hop": 1, "address": "10.0.1.2", "seconds": 0.001, "reached": False},
        {"hop": 2, "address": None, "seconds": None, "reached": False},
        {"hop": 3, "address": "192.0.2.9", "seconds": 0.004, "reached": True},
    ]
    (line,) = two.hop(1, Hop(1, stopped("10.0.2.2"))).out
    assert json.loads(line) == {
        "hop": 1,
        "address": "10.0.2.2",
        "seconds": 0.002,
        "reached": False,
        "icmp": {"type": 3, "code": 10, "from": "10.0.2.2"},
        "flow": 2,
        "source_port": 40112,
    }


def test_several_flows_are_one_table_and_what_differs() -> None:
    flows = [
        flow(passed("10.0.1.2"), passed("10.0.2.2"), SERVED),
        flow(passed("10.0.1.2"), passed("10.9.2.2"), SERVED, port=40112),
        flow(passed("10.0.1.2"), stopped("10.0.1.2"), port=40113),
    ]
    report = TextTraceReport(TARGET, [40111, 40112, 40113])
    assert report.hop(0, flows[0].hops[0]).out == []
    lines = report.end(flows)
    assert lines.out == [
        "flow  source port  hops",
        "   1        40111     3",
        "   2        40112     3",
        "   3        40113     2",
        " 1  10.0.1.2  1.000 ms  flows 1-3",
        " 2  10.0.2.2  1.000 ms  flow 1",
        " 2  10.9.2.2  1.000 ms  flow 2",
        " 2  10.0.1.2  2.000 ms  packets stop  flow 3",
        " 3  192.0.2.9  4.000 ms  the target  flows 1, 2",
        "the paths differ at hop 2: 10.0.2.2 (flow 1), 10.9.2.2 (flow 2), 10.0.1.2 (flow 3)",
    ]
    assert lines.err[0].startswith("greet: tcp:192.0.2.9:8088: flow 3 (source port 40113): packets stop at hop 2: ")
    assert lines.err[1].endswith("likely: a firewall on the path forbids it; whether the host is there is not known")


def test_a_silent_hop_is_no_other_path() -> None:
    assert partings([flow(passed("10.0.1.2"), SERVED), flow(None, SERVED)]) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [([1], "1"), ([1, 2], "1, 2"), ([1, 2, 3], "1-3"), ([1, 3, 4, 5, 9], "1, 3-5, 9"), ([], "")],
)
def test_numbers_are_written_short(found: list[int], words: str) -> None:
    assert numbers(found) == words
