"""What `greet --trace` and `greet --mtu` print, and their exit status, over loopback."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from greetsvc.cli.plan import Plan
from greetsvc.cli.route_plan import MtuPlan, TracePlan
from greetsvc.client.options import ProbeOptions
from greetsvc.client.stats import RunStats
from greetsvc.client.target import parse
from greetsvc.console import Output
from greetsvc.net.linux import error_queue
from tests.support.peers import Peers

pytestmark = pytest.mark.skipif(not error_queue.AVAILABLE, reason="the error queue is Linux's")

reactor: Any = global_reactor
OPTIONS = ProbeOptions(timeout=20)


async def ran(plan: Plan) -> tuple[str, str, int]:
    """Standard output, standard error and the exit status of a plan."""
    out, err, stats = io.StringIO(), io.StringIO(), RunStats()
    await plan.run(Output(out, err), stats, reactor, time.monotonic)
    return out.getvalue(), err.getvalue(), stats.status


@pytest_twisted.ensureDeferred
async def test_a_trace_prints_its_hops_as_text_and_as_json(peers: Peers) -> None:
    target = parse(peers.stream(lambda _: None))
    out, err, status = await ran(TracePlan(target, OPTIONS))
    assert out.startswith(" 1  127.0.0.1  ")
    assert out.endswith(" ms  the target\n")
    assert (err, status) == ("", 0)
    out, _, status = await ran(TracePlan(target, OPTIONS, flows=3, as_json=True))
    found = [json.loads(line) for line in out.splitlines()]
    assert sorted(hop["flow"] for hop in found) == [1, 2, 3]
    assert all(hop["reached"] for hop in found)
    assert status == 0


@pytest_twisted.ensureDeferred
async def test_a_refused_port_is_reached_and_not_served(free_port: int) -> None:
    out, err, status = await ran(TracePlan(parse(f"udp:127.0.0.1:{free_port}"), OPTIONS))
    assert "the target" in out
    assert f"greet: udp:127.0.0.1:{free_port}: the target answers at hop 1: port unreachable" in err
    assert status == 2


@pytest_twisted.ensureDeferred
async def test_a_source_port_that_is_in_use_is_told_in_one_line(peers: Peers) -> None:
    target = parse(peers.datagram(peers.later(0)))
    taken = peers.sockets[0].getsockname()[1]
    _, err, status = await ran(TracePlan(target, ProbeOptions(source_port=taken)))
    assert "greet: Address already in use" in err
    assert status == 2


@pytest_twisted.ensureDeferred
async def test_the_mtu_of_a_udp_service_is_printed(serve: Any) -> None:
    (port,) = serve("udp:0:interface=127.0.0.1").ports
    out, err, status = await ran(MtuPlan(parse(f"udp:127.0.0.1:{port}"), OPTIONS, verbose=True))
    assert out.splitlines() == [
        "there: at least 9244 bytes; the server does not read longer requests",
        "back: at least 9243 bytes; the server does not read longer requests",
    ]
    assert err.splitlines() == ["* there: 9244 bytes passed", "* back: 9243 bytes passed"]
    assert status == 0


@pytest_twisted.ensureDeferred
async def test_of_a_tcp_service_the_kernels_tell(peers: Peers, free_port: int) -> None:
    out, _, status = await ran(
        MtuPlan(parse(peers.stream(lambda sock: sock.sendall(b"hi\n"))), OPTIONS, as_json=True)
    )
    assert json.loads(out)["mtu"]["bound"] == {"there": "most", "back": "most"}
    assert status == 0
    out, err, status = await ran(MtuPlan(parse(f"127.0.0.1:{free_port}"), OPTIONS))
    assert (out, status) == ("", 2)
    assert "Connection refused" in err


@pytest_twisted.ensureDeferred
async def test_a_plan_that_is_stopped_leaves_nothing_behind(peers: Peers) -> None:
    silent = parse(peers.datagram(lambda *_: None))
    for plan in (TracePlan(silent, OPTIONS, flows=2), MtuPlan(silent, OPTIONS)):
        running = Deferred.fromCoroutine(ran(plan))
        running.cancel()
        _, err, status = await running
        assert (err, status) == ("", 2)
