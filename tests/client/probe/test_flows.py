"""Several flows, and one that is held against fresh ones."""

from __future__ import annotations

import errno
import io
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from greetsvc.cli.plan import Plan
from greetsvc.client.outgoing import Outgoing
from greetsvc.client.path import PathVerdict
from greetsvc.client.probe.flows import Flows, Pinned, free_ports, in_rounds
from greetsvc.client.probe.greet import Asking, ask
from greetsvc.client.report.findings import summary
from greetsvc.client.report.text import JsonLines, Nagios, Plain
from greetsvc.client.result import GreetFailed, Greeting, Phase, Seconds
from greetsvc.client.sent import Sent
from greetsvc.client.stats import Demands, Tally
from greetsvc.client.target import parse
from greetsvc.console import Output
from greetsvc.net.linux.packets import TcpInfo
from greetsvc.visit import Address

TARGET = parse("127.0.0.1:1")
HERE = Address("127.0.0.1", 1)
GREETING = Greeting(TARGET, b"hi", "hi\r\n", Seconds(connect=1.01, total=1.02), HERE, "fin")


def lost(number: int = errno.ETIMEDOUT, phase: Phase = "connect") -> GreetFailed:
    return GreetFailed(number, "lost", phase, target=TARGET)


def counted(*losses: tuple[int, int]) -> Flows:
    """Flows with so many lost of so many sent."""
    flows = Flows(tuple(range(40111, 40111 + len(losses))))
    for flow, (gone, sent) in enumerate(losses):
        for probe in range(sent):
            flows.add(flow, lost() if probe < gone else GREETING)
    return flows


def test_a_flow_that_vanishes_is_named_with_its_port() -> None:
    flows = counted((0, 5), (0, 5), (5, 5), (0, 5), (0, 5), (0, 5), (0, 5), (0, 5))
    assert flows.broken() == [(2, 0, 35)]
    *table, last = flows.words()
    assert last == ("flow 3 (source port 40113): 5 of 5 lost, the others 0: a broken member of an ECMP or LAG group?")
    assert table[0] == "flow  source port  sent  lost"
    assert table[3] == "   3        40113     5     5"
    assert len(table) == 9


@pytest.mark.parametrize(
    ("losses", "broken"),
    [
        pytest.param([(0, 5)] * 8, [], id="none lost"),
        pytest.param([(5, 5)] * 8, [], id="all lost"),
        pytest.param([(1, 5)] * 8, [], id="evenly lost"),
        pytest.param([(1, 1), *[(0, 1)] * 7], [], id="one of one is bad luck"),
        pytest.param([(5, 5), (5, 5), *[(0, 5)] * 6], [0, 1], id="two of eight"),
        pytest.param([(5, 5)] * 4 + [(0, 5)] * 4, [0, 1, 2, 3], id="four of eight"),
        pytest.param([(4, 20), *[(2, 20)] * 7], [], id="random loss"),
        pytest.param([(14, 20), *[(1, 20)] * 7], [0], id="mostly lost"),
        pytest.param([(0, 0), (0, 0)], [], id="stopped before anything was sent"),
        pytest.param([(3, 3), (0, 3)], [], id="too few to tell"),
    ],
)
def test_flows_are_named_when_chance_does_not_explain_them(losses: list[tuple[int, int]], broken: list[int]) -> None:
    assert [flow for flow, _, _ in counted(*losses).broken()] == broken


def test_a_port_that_this_host_does_not_give_is_no_loss_on_the_path() -> None:
    flows = Flows((40111, 40112))
    for _ in range(5):
        flows.add(0, lost(errno.EADDRINUSE))
        flows.add(1, GREETING)
    assert flows.as_json() == [
        {"source_port": 40111, "sent": 0, "lost": 0},
        {"source_port": 40112, "sent": 5, "lost": 0},
    ]
    assert flows.broken() == []


def test_what_the_others_lost_is_told() -> None:
    words = counted((14, 20), *[(1, 20)] * 7).words()
    assert words[-1].startswith("flow 1 (source port 40111): 14 of 20 lost, the others 7 of 140: ")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9))
def test_any_losses_can_be_told(losses: list[tuple[int, int]]) -> None:
    flows = counted(*[(min(pair), max(pair)) for pair in losses])
    assert len(flows.words()) == 1 + len(losses) + len(flows.broken())


@pytest.mark.parametrize("datagram", [True, False])
def test_free_ports_are_in_a_row_and_free(datagram: bool) -> None:
    ports = free_ports(8, datagram=datagram)
    assert ports == list(range(ports[0], ports[0] + 8))
    with socket.socket(type=socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM) as sock:
        sock.bind(("0.0.0.0", ports[3]))


def test_without_a_free_row_any_free_ports_do() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        ports = free_ports(2, datagram=True, least=port - 1, most=port + 1, tries=3)
        assert len(set(ports)) == 2
        assert port not in ports


async def outcome(
    pinned: Pinned, own: Greeting | GreetFailed, fresh: Greeting | GreetFailed
) -> Greeting | GreetFailed:
    """What a probe through it came to."""

    def give(what: Greeting | GreetFailed) -> Callable[[], Awaitable[Greeting]]:
        async def probe() -> Greeting:
            if isinstance(what, GreetFailed):
                raise what
            return what

        return probe

    try:
        return await pinned.probe(give(own), give(fresh))
    except GreetFailed as failed:
        return failed


@pytest_twisted.ensureDeferred
async def test_a_flow_that_worked_and_fails_while_fresh_ones_pass_is_probably_stale() -> None:
    pinned = Pinned(40113)
    assert await outcome(pinned, GREETING, lost()) is GREETING
    assert await outcome(pinned, GREETING, lost()) is GREETING
    assert pinned.finding == ""
    assert await outcome(pinned, failed := lost(), GREETING) is failed
    assert pinned.finding == (
        "source port 40113 fails while a fresh one passes, and it worked until then (2 greeted): "
        "likely a stale connection-tracking entry"
    )
    assert await outcome(pinned, GREETING, lost()) is GREETING
    assert pinned.finding == ""


@pytest_twisted.ensureDeferred
async def test_a_flow_that_never_worked_is_no_stale_entry() -> None:
    pinned = Pinned(40113)
    await outcome(pinned, lost(), GREETING)
    assert pinned.finding == (
        "source port 40113 fails while a fresh one passes: "
        "likely a rule for that port, or a broken member of an ECMP or LAG group"
    )


@pytest_twisted.ensureDeferred
async def test_when_fresh_ones_fail_too_it_is_not_the_flow() -> None:
    pinned = Pinned(40113)
    await outcome(pinned, lost(), lost())
    assert pinned.finding == "a fresh source port fails too: it is not this flow"


@pytest.mark.parametrize("failed", [lost(errno.EADDRINUSE), lost(errno.EACCES), lost(errno.ENOENT, "resolve")])
@pytest_twisted.ensureDeferred
async def test_what_never_left_says_nothing_of_the_path(failed: GreetFailed) -> None:
    pinned = Pinned(40113)
    await outcome(pinned, failed, GREETING)
    assert pinned.finding == ""


def test_rounds_ask_every_flow_at_once_and_start_on_time() -> None:
    clock = Clock()
    asked: list[tuple[float, int]] = []
    told: list[tuple[int, bool]] = []

    async def ask_flow(flow: int) -> Greeting:
        asked.append((clock.seconds(), flow))
        if flow == 1:
            raise lost()
        return GREETING

    def each(number: int, what: Greeting | GreetFailed) -> None:
        told.append((number, isinstance(what, GreetFailed)))

    pace: Any = {"count": 2, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(in_rounds(ask_flow, each, flows=3, **pace))
    assert [flow for _, flow in asked] == [0, 1, 2]
    clock.advance(0.9)
    assert len(asked) == 3
    clock.advance(0.1)
    assert asked[3:] == [(1.0, 0), (1.0, 1), (1.0, 2)]
    assert told == [(1, False), (2, True), (3, False), (4, False), (5, True), (6, False)]
    assert run.called


def test_a_run_of_flows_that_is_stopped_stops_every_probe() -> None:
    waiting: list[Deferred[Greeting]] = []

    async def ask_flow(_: int) -> Greeting:
        waiting.append(Deferred())
        return await waiting[-1]

    clock = Clock()
    pace: Any = {"count": 0, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(in_rounds(ask_flow, lambda *_: None, flows=3, **pace))
    assert len(waiting) == 3
    run.cancel()
    assert all(probe.called for probe in waiting)
    failures: list[Any] = []
    run.addErrback(failures.append)
    assert failures[0].check(CancelledError)


def test_when_telling_fails_the_other_probes_are_given_up() -> None:
    waiting: list[Deferred[Greeting]] = []

    async def ask_flow(flow: int) -> Greeting:
        if flow == 0:
            return GREETING
        waiting.append(Deferred())
        return await waiting[-1]

    def each(_: int, __: Any) -> None:
        raise ZeroDivisionError

    clock = Clock()
    pace: Any = {"count": 0, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(in_rounds(ask_flow, each, flows=2, **pace))
    failures: list[Any] = []
    run.addErrback(failures.append)
    assert failures[0].check(ZeroDivisionError)
    assert all(probe.called for probe in waiting)


async def carried_out(plan: Plan) -> tuple[Tally, str, str]:
    out, err, tally = io.StringIO(), io.StringIO(), Tally()
    await plan.run(Output(out, err), tally, reactor, reactor.seconds)
    return tally, out.getvalue(), err.getvalue()


def plan_of(target: str, *, flows: int = 0, port: int | None = None, count: int = 3, **how: Any) -> Plan:
    asked = parse(target)
    asking = Asking(timeout=0.3, outgoing=Outgoing(source_port=port))
    report = how.pop("report", None) or Plain(asked, several=True)
    return Plan(asked, asking, Demands(), report, count=count, interval=0.0, flows=flows, **how)


@pytest_twisted.ensureDeferred
async def test_a_flow_that_a_server_never_answers_is_named(peers: Any) -> None:
    """A peer that hears some source ports only is what a broken link looks like from here."""

    def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
        if sender[1] % 8 != 3:
            sock.sendto(b"hello", sender)

    target = peers.datagram(answer)
    tally, out, err = await carried_out(plan_of(target, flows=8))
    assert (tally.sent, tally.greeted) == (24, 21)
    assert tally.flows is not None
    broken = next(port for port in tally.flows.ports if port % 8 == 3)
    assert f"(source port {broken}): 3 of 3 lost, the others 0: a broken member of an ECMP" in out
    assert err.count("likely: ") == 1
    report = JsonLines(parse(target), several=True)
    _, told, _ = await carried_out(plan_of(target, flows=8, port=tally.flows.ports[0], count=1, report=report))
    found = json.loads(told.splitlines()[-1])["summary"]["flows"]
    assert found == [{"source_port": port, "sent": 1, "lost": int(port == broken)} for port in tally.flows.ports]


@pytest_twisted.ensureDeferred
async def test_a_pinned_flow_that_begins_to_fail_is_told_from_fresh_ones(peers: Any, free_port: int) -> None:
    heard: list[int] = []

    def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
        heard.append(sender[1])
        if sender[1] != free_port or heard.count(free_port) <= 2:
            sock.sendto(b"hello", sender)

    tally, _, err = await carried_out(plan_of(peers.datagram(answer), port=free_port))
    assert (tally.sent, tally.greeted) == (3, 2), "the fresh probe does not count"
    assert f"source port {free_port} fails while a fresh one passes, and it worked until then (2 greeted)" in err


@pytest_twisted.ensureDeferred
async def test_a_pinned_connection_that_must_be_left_open_leaves_its_port_free(peers: Any, free_port: int) -> None:
    """Closing first would keep the port for a minute; so it is reset."""

    def greet_and_hold(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        connection.settimeout(5)
        connection.recv(1)

    target = parse(peers.stream(greet_and_hold))
    asking = Asking(timeout=0.2, outgoing=Outgoing(source_port=free_port))
    for _ in range(2):
        assert (await ask(target, asking)).closed == "timeout"


def with_path(instance: str) -> Greeting:
    verdict = PathVerdict(nat=False, proxy=False, hops=0, mss=None, stripped=(), dscp=None, instance=instance)
    return evolve(GREETING, path=verdict)


def test_replicas_are_shown_with_their_shares() -> None:
    tally = Tally()
    for instance in ("aa", "bb", "aa", "aa"):
        tally.add(with_path(instance), [])
    assert summary(tally) == ["2 replicas: aa 75 % (3), bb 25 % (1)"]
    told = json.loads(JsonLines(TARGET, several=True).end(tally).out[0])["summary"]
    assert told["replicas"] == {"aa": 3, "bb": 1}
    assert "flows" not in told
    assert Plain(TARGET, several=True).end(tally).out[-1] == "2 replicas: aa 75 % (3), bb 25 % (1)"


def test_one_replica_is_not_worth_a_line() -> None:
    tally = Tally()
    tally.add(with_path("aa"), [])
    tally.add(GREETING, [])
    assert summary(tally) == []


def test_connections_that_took_more_than_one_syn_are_counted() -> None:
    tally = Tally()
    for retransmits, connect in ((0, 0.1), (1, 1.02), (1, 1.04), (2, 3.05)):
        info = TcpInfo(0, 1448, retransmits, 1448, timestamps=True, sack=True, wscale=True)
        tally.add(evolve(GREETING, seconds=Seconds(connect=connect), sent=Sent(HERE, tcp=info)), [])
    tally.add(evolve(GREETING, sent=Sent(HERE)), [])
    assert summary(tally) == ["connected late: 2 with 2 SYNs (1.030 s), 1 with 3 SYNs (3.050 s): packets are lost"]


def test_what_a_fresh_port_tells_is_in_every_report() -> None:
    finding = ["a fresh source port fails too: it is not this flow"]
    told = json.loads(JsonLines(TARGET, several=True).probe(1, lost(), finding).out[0])
    assert told["error"] == f"lost; {finding[0]}"
    line = Nagios(TARGET, 5.0, None)
    line.probe(1, lost(), finding)
    assert finding[0] in line.end(Tally(sent=1)).out[0]
    assert Plain(TARGET, several=False).probe(1, lost(), finding).err[1].endswith(finding[0])
