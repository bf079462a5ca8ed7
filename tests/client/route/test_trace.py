"""The walk along a path, driven without sockets; and single requests on loopback."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve, field
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.options import DEFAULTS, ProbeOptions
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.route.ask import Asker
from greetsvc.client.route.hops import MAX_HOPS, Flow, Hop, Reply
from greetsvc.client.route.trace import trace_flows
from greetsvc.net.linux import error_queue
from greetsvc.wire import encode_measured, nonce_of, request
from tests.support.peers import Peers

reactor: Any = global_reactor
linux = pytest.mark.skipif(not error_queue.AVAILABLE, reason="the error queue is Linux's")


def passed(address: str, seconds: float = 0.001) -> Reply:
    return Reply(address, seconds, Icmp(4, 11, 0, address, "router"))


SERVED = Reply("192.0.2.9", 0.004)


@define
class Route:
    """A path as a script: the replies of its hops, and what comes for a full TTL. Used as an `Asker`."""

    hops: list[Reply | None]
    full: Reply | None = None
    options: ProbeOptions = DEFAULTS
    reactor: Clock = field(factory=Clock)
    asked: list[tuple[int | None, float]] = field(factory=list)

    def now(self) -> float:
        return self.reactor.seconds()

    async def ask(self, ttl: int | None, patience: float) -> Reply | None:
        self.asked.append((ttl, patience))
        reply = self.full if ttl is None else self.hops[ttl - 1] if ttl <= len(self.hops) else None
        if reply is not None and reply.seconds <= patience:
            self.reactor.advance(reply.seconds)
            return reply
        self.reactor.advance(patience)
        return None


def walked(route: Route, seconds: float = 30.0) -> tuple[Flow, list[Hop]]:
    """The one flow of a trace, and the hops that were told, which are its hops."""
    told: list[Hop] = []
    done = Deferred.fromCoroutine(
        trace_flows(cast("Asker", route), [40111], lambda _, hop: told.append(hop), seconds)
    )
    found: list[list[Flow]] = []
    done.addCallback(found.append)
    ((flow,),) = found
    assert told == flow.hops
    return flow, told


def test_a_walk_ends_at_the_first_hop_that_answers_for_the_target() -> None:
    flow, _ = walked(Route([passed("10.0.1.2"), None, passed("10.0.3.2"), SERVED, SERVED]))
    assert [hop.address for hop in flow.hops] == ["10.0.1.2", None, "10.0.3.2", "192.0.2.9"]
    assert flow.served


def test_a_silent_hop_is_asked_twice_and_waited_for_three_round_trips() -> None:
    route = Route([passed("10.0.1.2", 0.2), None, SERVED])
    walked(route)
    assert route.asked == [(1, 1.0), (2, pytest.approx(0.6)), (2, pytest.approx(0.6)), (3, pytest.approx(0.6))]


def test_a_path_that_ends_is_left_after_four_silent_hops_and_one_full_request() -> None:
    route = Route([passed("10.0.1.2")])
    flow, _ = walked(route)
    assert [hop.address for hop in flow.hops] == ["10.0.1.2", None, None, None, None]
    assert [ttl for ttl, _ in route.asked] == [1, 2, 2, 3, 3, 4, 4, 5, 5, None]
    assert not flow.out_of_time


def test_a_message_for_a_full_request_is_kept() -> None:
    """A router reports a host that does not answer ARP after 3 s only."""
    down = Reply("10.0.1.2", 3.1, Icmp(4, 3, 1, "10.0.1.2", "router"))
    flow, _ = walked(Route([passed("10.0.1.2")], full=down))
    assert flow.beyond == down


def test_a_loop_is_left_when_it_is_certain() -> None:
    flow, _ = walked(Route([passed("10.0.1.2"), *[passed("10.0.2.2"), passed("10.0.3.2")] * 20]))
    assert len(flow.hops) == 6
    assert flow.looping == ["10.0.2.2", "10.0.3.2"]


def test_what_this_host_reports_is_no_hop() -> None:
    own = Reply("10.0.1.1", 0.05, Icmp(4, 3, 1, "10.0.1.1", "this host"))
    flow, told = walked(Route([None, own]))
    assert told == [Hop(0, own)]
    assert not flow.served


def test_a_target_beyond_silent_routers_is_found() -> None:
    route = Route([*[None] * 9, SERVED], full=SERVED)
    flow, _ = walked(route)
    assert (len(flow.hops), flow.served) == (10, True)


def test_a_target_that_is_slower_than_its_routers_is_found_at_its_own_hop() -> None:
    slow = evolve(SERVED, seconds=1.7)
    flow, _ = walked(Route([passed("10.0.1.2"), slow, slow, slow], full=slow))
    assert [hop.address for hop in flow.hops] == ["10.0.1.2", "192.0.2.9"]


def test_a_walk_ends_after_30_hops_and_at_the_time_out() -> None:
    flow, _ = walked(Route([passed(f"10.0.{at}.2") for at in range(99)]))
    assert len(flow.hops) == MAX_HOPS
    route = Route([passed("10.0.1.2")])
    flow, _ = walked(route, 1.0)
    assert flow.out_of_time
    assert route.now() == pytest.approx(1.0)


def asker(target: str, *, now: Callable[[], float] = time.monotonic) -> Asker:
    """Asks a target on loopback."""
    host, _, port = target.removeprefix("udp:").rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockaddr = (host, int(port), 0, 0) if family == socket.AF_INET6 else (host, int(port))
    return Asker(SocketAddress(family, sockaddr), DEFAULTS, target.startswith("udp:"), reactor, now)


@linux
@pytest_twisted.ensureDeferred
async def test_a_service_answers_a_request_that_lives_for_one_hop(peers: Peers) -> None:
    for target in (peers.stream(lambda _: None), peers.datagram(peers.later(0))):
        reply = await asker(target).ask(1, 5.0)
        assert reply is not None
        assert reply.served
        assert reply.address == "127.0.0.1"


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_with_who_refused(free_port: int, host: str) -> None:
    reply = await asker(f"{host}:{free_port}").ask(1, 5.0)
    assert reply is not None
    assert (reply.reached, reply.served) == (True, False)
    assert reply.words == "Connection refused: a reset in its name"
    reply = await asker(f"udp:{host}:{free_port}").ask(1, 5.0)
    assert reply is not None
    assert (reply.reached, reply.served) == (True, False)
    assert reply.words.startswith("port unreachable")


@linux
@pytest_twisted.ensureDeferred
async def test_what_quotes_another_request_is_passed_over(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The late answer for an earlier hop: both left from the same port."""
    late = error_queue.QueuedError(113, "10.0.9.2", 4, 11, 0, quoted=request("0" * 16, 25))
    short = late._replace(offender="10.0.1.2", quoted=b"")
    queue = [[late], [late, short]]
    monkeypatch.setattr(error_queue, "read", lambda *_: queue.pop(0))

    def answer(sock: socket.socket, _: bytes, to: Any) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as other:  # from another address: it is not the target's
            other.sendto(b"x", to)
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.sendto(b"x", to)

    reply = await asker(peers.datagram(answer)).ask(1, 5.0)
    assert reply is not None
    assert reply.address == "10.0.1.2"


@linux
@pytest_twisted.ensureDeferred
async def test_a_measured_answer_to_another_request_is_passed_over(peers: Peers) -> None:
    """It came late, to a request for an earlier hop; then the right one comes."""

    def answer(sock: socket.socket, request: bytes, to: Any) -> None:
        for nonce in ("0" * 16, nonce_of(request) or ""):
            seen.append(nonce)
            sock.sendto(encode_measured(f"{nonce} s={'0' * 16} n=1 a=0".encode(), 1, 1, 5, 6, 64, 0, 1200), to)

    seen: list[str] = []
    reply = await asker(peers.datagram(answer)).ask(1, 5.0)
    assert reply is not None
    assert reply.served
    assert len(seen) == 2


@linux
@pytest_twisted.ensureDeferred
async def test_silence_is_no_reply(peers: Peers) -> None:
    assert await asker(peers.datagram(lambda *_: None)).ask(1, 0.05) is None


@linux
def test_the_queue_quotes_our_own_datagram_and_names_the_mtu() -> None:
    offender = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("192.0.2.1"))
    entry = struct.pack("=IBBBBII", 90, 2, 3, 4, 0, 1400, 0) + offender
    (found,) = error_queue.parse([(socket.IPPROTO_IP, 11, entry)], b"GREET/1 ")
    assert (found.mtu, found.quoted, found.offender) == (1400, b"GREET/1 ", "192.0.2.1")
