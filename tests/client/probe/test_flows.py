"""Several flows, and a pinned one that is compared with fresh ones."""

from __future__ import annotations

import errno
import io
import json
import random
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from greetsvc.cli.plan import ProbePlan
from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import PathChanges, Sent
from greetsvc.client.probe.flows import PinnedFlow, free_ports, probe_flows
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.series import result_of
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.monitoring import NagiosReport
from greetsvc.client.report.text import TextReport, summary_notes
from greetsvc.client.result import Attempt, GreetFailed, Greeting, Seconds
from greetsvc.client.stats import Expectations, FlowStats, RunStats
from greetsvc.client.target import parse
from greetsvc.client.words import Phase
from greetsvc.console import Output
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.visit import Address

TARGET = parse("127.0.0.1:1")
HERE = Address("127.0.0.1", 1)
GREETING = Greeting(TARGET, b"hi", "hi\r\n", Seconds(connect=1.01, total=1.02), HERE, "fin")


def lost(number: int = errno.ETIMEDOUT, phase: Phase = "connect") -> GreetFailed:
    return GreetFailed(number, "lost", phase, target=TARGET)


def counted(*losses: tuple[int, int]) -> FlowStats:
    """Flows with so many lost of so many sent."""
    flows = FlowStats(list(range(40111, 40111 + len(losses))))
    for flow, (gone, sent) in enumerate(losses):
        for probe in range(sent):
            flows.add(flow, lost() if probe < gone else GREETING)
    return flows


def table_of(flows: FlowStats) -> list[str]:
    return summary_notes(RunStats(flows=flows))


def test_a_flow_that_vanishes_is_named_with_its_port() -> None:
    flows = counted((0, 5), (0, 5), (5, 5), (0, 5), (0, 5), (0, 5), (0, 5), (0, 5))
    assert flows.broken() == [(2, 0, 35)]
    *table, last = table_of(flows)
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
        pytest.param([(3, 3), *[(0, 3)] * 7], [], id="three losses in one of eight flows may be chance"),
        pytest.param([(9, 20), (1, 20), (4, 20), (5, 20)], [], id="random loss of a fifth"),
        pytest.param([(30, 100), *[(18, 100)] * 4, *[(12, 100)] * 3], [], id="random loss of a fifth, many probes"),
    ],
)
def test_flows_are_named_when_chance_does_not_explain_them(losses: list[tuple[int, int]], broken: list[int]) -> None:
    assert [flow for flow, _, _ in counted(*losses).broken()] == broken


def test_a_source_port_that_is_taken_is_not_a_loss_on_the_path() -> None:
    flows = FlowStats([40111, 40112])
    for _ in range(5):
        flows.add(0, lost(errno.EADDRINUSE))
        flows.add(1, GREETING)
    summary = json.loads(JsonReport(TARGET, several=True).end(RunStats(flows=flows)).out[0])["summary"]
    assert summary["flows"] == [
        {"source_port": 40111, "sent": 0, "lost": 0},
        {"source_port": 40112, "sent": 5, "lost": 0},
    ]
    assert flows.broken() == []


def test_the_losses_of_the_other_flows_are_reported() -> None:
    words = table_of(counted((14, 20), *[(1, 20)] * 7))
    assert words[-1].startswith("flow 1 (source port 40111): 14 of 20 lost, the others 7 of 140: ")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9))
def test_any_losses_can_be_reported(losses: list[tuple[int, int]]) -> None:
    flows = counted(*[(min(pair), max(pair)) for pair in losses])
    assert len(table_of(flows)) == 1 + len(losses) + len(flows.broken())


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


def giving(result: Greeting | GreetFailed) -> Callable[[], Awaitable[Greeting]]:
    async def probe() -> Greeting:
        if isinstance(result, GreetFailed):
            raise result
        return result

    return probe


def giving_by(passes: Callable[[], bool]) -> Callable[[], Awaitable[Greeting]]:
    async def probe() -> Greeting:
        return await giving(GREETING if passes() else lost())()

    return probe


def new_pinned() -> PinnedFlow:
    return PinnedFlow(40113, giving(GREETING), giving(GREETING))


async def result(
    flow: PinnedFlow, own: Greeting | GreetFailed, fresh: Greeting | GreetFailed
) -> Greeting | GreetFailed:
    """The result of one probe of a pinned flow."""
    flow.pinned, flow.fresh = giving(own), giving(fresh)
    return await result_of(flow.probe())


@pytest_twisted.ensureDeferred
async def test_a_flow_that_worked_and_fails_while_fresh_ones_pass_is_probably_stale() -> None:
    pinned = new_pinned()
    assert await result(pinned, GREETING, lost()) is GREETING
    assert await result(pinned, GREETING, lost()) is GREETING
    assert pinned.diagnosis == []
    assert await result(pinned, failed := lost(), GREETING) is failed
    assert pinned.diagnosis == ["source port 40113: 1 of 3 lost, 0 of 5 from fresh ones: that may be chance"]
    told = []
    for _ in range(5):
        await result(pinned, lost(), GREETING)
        told += pinned.diagnosis
    assert told == [
        "source port 40113 fails while fresh ones work; it worked before (2 greeted): "
        "likely a stale connection-tracking entry"
    ], "once"
    assert await result(pinned, GREETING, lost()) is GREETING
    assert pinned.diagnosis == ["source port 40113 works again: the finding is withdrawn"]
    assert await result(pinned, GREETING, lost()) is GREETING
    assert pinned.diagnosis == []


@pytest.mark.parametrize("loss", [0.05, 0.2, 0.5])
@pytest_twisted.ensureDeferred
async def test_random_loss_is_no_finding(loss: float) -> None:
    chances = random.Random(1)
    pinned = PinnedFlow(40113, some := giving_by(lambda: chances.random() >= loss), some)
    told = []
    for _ in range(1000):
        await result_of(pinned.probe())
        told += pinned.diagnosis
    assert [line for line in told if "likely" in line] == []
    assert any("may be chance" in line for line in told)


@pytest_twisted.ensureDeferred
async def test_requests_that_fresh_ports_repeat_are_compared_one_by_one() -> None:
    pinned = new_pinned()
    again = evolve(GREETING, attempts=(Attempt(0.0), Attempt(0.5, 0.01)))
    for _ in range(20):
        await result(pinned, lost(), again)
    assert pinned.fresh_results.count(False) == pinned.fresh_results.count(True) == 100


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
@pytest_twisted.ensureDeferred
async def test_a_port_that_stops_working_is_found_within_random_loss(loss: float) -> None:
    chances = random.Random(2)
    works = giving_by(lambda: chances.random() >= loss)
    pinned = PinnedFlow(40113, works, works)
    for _ in range(20):
        await result_of(pinned.probe())
    pinned.pinned = giving(lost())
    told = []
    for _ in range(12):
        await result_of(pinned.probe())
        told += pinned.diagnosis
    assert sum("likely a stale connection-tracking entry" in line for line in told) == 1


@pytest_twisted.ensureDeferred
async def test_a_flow_that_never_worked_is_not_blamed_on_a_stale_entry() -> None:
    pinned = new_pinned()
    told = []
    for _ in range(5):
        await result(pinned, lost(), GREETING)
        told += pinned.diagnosis
    assert told == [
        "source port 40113: 1 of 1 lost, 0 of 5 from fresh ones: that may be chance",
        "source port 40113 fails while fresh ones work: "
        "likely a rule for that port, or a broken member of an ECMP or LAG group",
    ]


@pytest_twisted.ensureDeferred
async def test_when_fresh_ports_fail_too_nothing_points_to_the_flow() -> None:
    pinned = new_pinned()
    told = []
    for _ in range(20):
        await result(pinned, lost(), lost())
        told += pinned.diagnosis
    assert told == ["fresh source ports fail too: nothing points to this flow"]


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EMFILE, errno.EACCES])
@pytest_twisted.ensureDeferred
async def test_where_this_host_fails_the_fresh_ports_they_tell_nothing(number: int) -> None:
    pinned = new_pinned()
    for _ in range(20):
        await result(pinned, lost(), lost(number))
        (told,) = pinned.diagnosis
        assert told.startswith("whether fresh source ports work is not known: ")
    await result(pinned, lost(), GREETING)
    assert "may be chance" in pinned.diagnosis[0] or "fails while fresh ones work" in pinned.diagnosis[0]


@pytest.mark.parametrize("failed", [lost(errno.EADDRINUSE), lost(errno.EACCES), lost(errno.ENOENT, "resolve")])
@pytest_twisted.ensureDeferred
async def test_a_probe_that_was_never_sent_says_nothing_about_the_path(failed: GreetFailed) -> None:
    pinned = new_pinned()
    await result(pinned, failed, GREETING)
    assert pinned.diagnosis == []


def test_all_flows_are_probed_at_once_and_rounds_start_on_time() -> None:
    clock = Clock()
    started: list[tuple[float, int]] = []
    told: list[tuple[int, bool]] = []

    async def probe_flow(flow: int) -> Greeting:
        started.append((clock.seconds(), flow))
        if flow == 1:
            raise lost()
        return GREETING

    def each(number: int, what: Greeting | GreetFailed) -> None:
        told.append((number, isinstance(what, GreetFailed)))

    pace: Any = {"count": 2, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(probe_flows([partial(probe_flow, flow) for flow in range(3)], each, **pace))
    assert [flow for _, flow in started] == [0, 1, 2]
    clock.advance(0.9)
    assert len(started) == 3
    clock.advance(0.1)
    assert started[3:] == [(1.0, 0), (1.0, 1), (1.0, 2)]
    assert told == [(1, False), (2, True), (3, False), (4, False), (5, True), (6, False)]
    assert run.called


def test_a_run_of_flows_that_is_stopped_stops_every_probe() -> None:
    waiting: list[Deferred[Greeting]] = []

    async def probe_flow(_: int) -> Greeting:
        waiting.append(Deferred())
        return await waiting[-1]

    clock = Clock()
    pace: Any = {"count": 0, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(
        probe_flows([partial(probe_flow, flow) for flow in range(3)], lambda *_: None, **pace)
    )
    assert len(waiting) == 3
    run.cancel()
    assert all(probe.called for probe in waiting)
    failures: list[Any] = []
    run.addErrback(failures.append)
    assert failures[0].check(CancelledError)


def test_when_a_report_raises_the_other_probes_are_cancelled() -> None:
    waiting: list[Deferred[Greeting]] = []

    async def probe_flow(flow: int) -> Greeting:
        if flow == 0:
            return GREETING
        waiting.append(Deferred())
        return await waiting[-1]

    def each(_: int, __: Any) -> None:
        raise ZeroDivisionError

    clock = Clock()
    pace: Any = {"count": 0, "interval": 1.0, "clock": clock, "now": clock.seconds}
    run = Deferred.fromCoroutine(probe_flows([partial(probe_flow, flow) for flow in range(2)], each, **pace))
    failures: list[Any] = []
    run.addErrback(failures.append)
    assert failures[0].check(ZeroDivisionError)
    assert all(probe.called for probe in waiting)


async def carried_out(plan: ProbePlan) -> tuple[RunStats, str, str]:
    out, err, stats = io.StringIO(), io.StringIO(), RunStats()
    await plan.run(Output(out, err), stats, reactor, reactor.seconds)
    return stats, out.getvalue(), err.getvalue()


def plan_of(target: str, *, flows: int = 0, port: int | None = None, count: int = 3, **how: Any) -> ProbePlan:
    parsed = parse(target)
    probe = Probe(parsed, ProbeOptions(timeout=0.3, source_port=port))
    report = how.pop("report", None) or TextReport(parsed, several=True)
    return ProbePlan(probe, Expectations(), report, count=count, interval=0.0, flows=flows, **how)


@pytest_twisted.ensureDeferred
async def test_a_flow_that_a_server_never_answers_is_named(peers: Any) -> None:
    """A peer that hears some source ports only is what a broken link looks like from here."""

    def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
        if sender[1] % 8 != 3:
            sock.sendto(b"hello", sender)

    target = peers.datagram(answer)
    stats, out, err = await carried_out(plan_of(target, flows=8, count=5))
    assert (stats.sent, stats.greeted) == (40, 35)
    assert stats.flows is not None
    broken = next(port for port in stats.flows.ports if port % 8 == 3)
    assert f"(source port {broken}): 5 of 5 lost, the others 0: a broken member of an ECMP" in out
    assert err.count("likely: ") == 1
    report = JsonReport(parse(target), several=True)
    _, told, _ = await carried_out(plan_of(target, flows=8, port=stats.flows.ports[0], count=1, report=report))
    found = json.loads(told.splitlines()[-1])["summary"]["flows"]
    assert found == [{"source_port": port, "sent": 1, "lost": int(port == broken)} for port in stats.flows.ports]


@pytest_twisted.ensureDeferred
async def test_a_pinned_flow_that_begins_to_fail_is_compared_with_fresh_ports(peers: Any, free_port: int) -> None:
    senders: list[int] = []

    def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
        senders.append(sender[1])
        if sender[1] != free_port or senders.count(free_port) <= 2:
            sock.sendto(b"hello", sender)

    stats, _, err = await carried_out(plan_of(peers.datagram(answer), port=free_port, count=7))
    assert (stats.sent, stats.greeted) == (7, 2), "fresh probes do not count"
    assert err.count(f"source port {free_port} fails while fresh ones work; it worked before (2 greeted)") == 1


@pytest.mark.parametrize(("lost_ones", "of"), [(1, 5), (1, 3), (1, 2)])
@pytest_twisted.ensureDeferred
async def test_losses_between_greetings_are_no_finding(peers: Any, free_port: int, lost_ones: int, of: int) -> None:
    seen: list[int] = []

    def lossy(sock: socket.socket, _: bytes, sender: Any) -> None:
        seen.append(sender[1])
        if sender[1] != free_port or seen.count(free_port) % of >= lost_ones:
            sock.sendto(b"hello", sender)

    probe = Probe(parse(peers.datagram(lossy)), ProbeOptions(timeout=0.1, source_port=free_port))
    plan = ProbePlan(probe, Expectations(), TextReport(probe.target, several=True), count=8, interval=0.0)
    stats, _, err = await carried_out(plan)
    assert 0 < stats.lost < 8
    assert "stale" not in err
    assert "may be chance" in err


@pytest_twisted.ensureDeferred
async def test_a_pinned_connection_that_must_be_left_open_leaves_its_port_free(peers: Any, free_port: int) -> None:
    """Closing first would keep the port for a minute; so it is reset."""

    def greet_and_hold(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        connection.settimeout(5)
        connection.recv(1)

    target = parse(peers.stream(greet_and_hold))
    probe = Probe(target, ProbeOptions(timeout=0.2, source_port=free_port))
    for _ in range(2):
        assert (await probe.run()).closed == "timeout"


def with_path(instance: str) -> Greeting:
    changes = PathChanges(nat=False, proxy=False, hops=0, mss=None, stripped=(), dscp=None, instance=instance)
    return evolve(GREETING, path=changes)


def test_replicas_are_shown_with_their_shares() -> None:
    stats = RunStats()
    for instance in ("aa", "bb", "aa", "aa"):
        stats.add(with_path(instance), [])
    assert summary_notes(stats) == ["2 replicas: aa 75 % (3), bb 25 % (1)"]
    told = json.loads(JsonReport(TARGET, several=True).end(stats).out[0])["summary"]
    assert told["replicas"] == {"aa": 3, "bb": 1}
    assert "flows" not in told
    assert TextReport(TARGET, several=True).end(stats).out[-1] == "2 replicas: aa 75 % (3), bb 25 % (1)"


def test_one_replica_gets_no_line() -> None:
    stats = RunStats()
    stats.add(with_path("aa"), [])
    stats.add(GREETING, [])
    assert summary_notes(stats) == []


def test_connections_that_took_more_than_one_syn_are_counted() -> None:
    stats = RunStats()
    for retransmits, connect in ((0, 0.1), (1, 1.02), (1, 1.04), (2, 3.05)):
        info = TcpInfo(0, 1448, retransmits, 1448, timestamps=True, sack=True, wscale=True)
        stats.add(evolve(GREETING, seconds=Seconds(connect=connect), sent=Sent(HERE, tcp=info)), [])
    stats.add(evolve(GREETING, sent=Sent(HERE)), [])
    assert summary_notes(stats) == [
        "connected late: 2 with 2 SYNs (1.030 s), 1 with 3 SYNs (3.050 s): packets are lost or late"
    ]


def test_the_diagnosis_of_a_pinned_flow_is_in_every_report() -> None:
    diagnosis = ["fresh source ports fail too: nothing points to this flow"]
    told = json.loads(JsonReport(TARGET, several=True).probe(1, lost(), diagnosis).out[0])
    assert told["error"] == f"lost; {diagnosis[0]}"
    line = NagiosReport(TARGET, 5.0, None)
    line.probe(1, lost(), diagnosis)
    assert diagnosis[0] in line.end(RunStats(sent=1)).out[0]
    assert TextReport(TARGET, several=False).probe(1, lost(), diagnosis).err[1].endswith(diagnosis[0])
