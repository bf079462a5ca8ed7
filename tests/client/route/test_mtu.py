"""The search for the largest packets: pure, and over loopback against the service and against liars."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor

from greetsvc import wire
from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import Sent, compare
from greetsvc.client.probe.resolve import resolve
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.report.route import mtu_lines
from greetsvc.client.result import GreetFailed, Greeting, Seconds
from greetsvc.client.route import discovery
from greetsvc.client.route.discovery import find_mtu
from greetsvc.client.route.kernel_mtu import kernel_mtu
from greetsvc.client.route.mtu import Mtu, SizeSearch, TooLong, Way
from greetsvc.client.target import parse
from greetsvc.net.linux import error_queue
from greetsvc.net.linux.packets import Syn
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.net.sockets import ipv6_works
from greetsvc.visit import Address
from tests.support.peers import Peers

reactor: Any = global_reactor
linux = pytest.mark.skipif(not error_queue.AVAILABLE, reason="the error queue is Linux's")

ROUTER = "10.0.1.2"


def searched(search: SizeSearch, passes: Callable[[int], bool], why: TooLong) -> list[int]:
    """Run a search; the sizes that it asked."""
    asked = []
    while (size := search.next()) is not None:
        asked.append(size)
        if passes(size):
            search.passes(size)
        else:
            search.fails(size, why)
        assert len(asked) < 200
    return asked


@given(st.integers(576, 9244), st.integers(576, 9244), st.booleans())
def test_the_size_is_exact_and_takes_few_packets(mtu: int, most: int, told: bool) -> None:
    search = SizeSearch(576, most)
    asked = searched(search, lambda size: size <= mtu, TooLong(mtu, ROUTER) if told else TooLong())
    assert search.least == min(mtu, most)
    assert len(asked) <= (4 if told else 19)
    if mtu >= most:
        assert search.reason is None
    else:
        assert search.reason == (TooLong(mtu, ROUTER) if told else TooLong())


@given(st.integers(576, 1500), st.sets(st.integers(0, 20), max_size=2))
def test_lost_packets_do_not_make_it_smaller(mtu: int, lost: set[int]) -> None:
    """What fails in silence is asked twice more before it counts; each time two packets are sent, so six are lost."""
    search = SizeSearch(576, 1500)
    tries = iter(range(1000))
    searched(search, lambda size: next(tries) not in lost and size <= mtu, TooLong())
    assert search.least == mtu


@given(st.integers(576, 1500), st.integers(-1, 70000))
def test_a_router_that_lies_does_not_make_it_wrong(mtu: int, told: int) -> None:
    search = SizeSearch(576, 1500)
    searched(search, lambda size: size <= mtu, TooLong(max(told, 0), ROUTER))
    assert search.least == mtu


def test_what_was_found_is_told_in_words_and_in_json() -> None:
    found = Mtu(Way(1400, f"{ROUTER} says so"), Way(1399, "no more can be tried", "least"), ROUTER, False)
    assert mtu_lines(found, as_json=False).out == [
        "there: 1400 bytes; 10.0.1.2 says so",
        "back: at least 1399 bytes; no more can be tried",
    ]
    assert mtu_lines(found, as_json=True).out == [
        '{"mtu": {"there": 1400, "back": 1399, "icmp_from": "10.0.1.2", "black_hole": false, '
        '"bound": {"back": "least"}}}'
    ]
    unknown = Mtu(Way(1500), Way(words="the server pads no answers"))
    assert mtu_lines(unknown, as_json=False).out == [
        "there: 1500 bytes",
        "back: not known: the server pads no answers",
    ]
    assert unknown.as_json() == {"mtu": {"there": 1500, "back": None, "icmp_from": None, "black_hole": None}}


def find(target: str, timeout: float = 20.0) -> Any:
    async def run() -> Mtu:
        timeline = Timeline(parse(target), ProbeOptions(timeout=timeout))
        return await find_mtu(await resolve(timeline, reactor), timeline, reactor)

    return run()


@linux
@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("127.0.0.1", 28),
        pytest.param("::1", 48, marks=pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_over_loopback_the_server_is_the_limit(serve: Any, host: str, headers: int) -> None:
    escaped = host.replace(":", "\\:")
    (port,) = serve(f"udp:0:interface={escaped}").ports
    found = await find(f"udp:[{host}]:{port}" if ":" in host else f"udp:{host}:{port}")
    assert found.as_json() == {
        "mtu": {
            "there": wire.MAX_REQUEST + headers,
            "back": wire.MAX_REQUEST + headers - 1,
            "icmp_from": None,
            "black_hole": False,
            "bound": {"there": "least", "back": "least"},
        }
    }


def only_up_to(longest: int, answer: Callable[[bytes], bytes]) -> Any:
    """A server behind a black hole: longer requests do not come to it."""

    def serve(sock: socket.socket, request: bytes, to: Any) -> None:
        if len(request) <= longest:
            sock.sendto(answer(request), to)

    return serve


def measured(request: bytes, size: int = 0) -> bytes:
    fields = wire.fields_of(request)
    repeated = f"{wire.nonce_of(request)} s={fields['s']} n={fields['n']} a=0".encode()
    return wire.encode_measured(repeated, 1, 1, 5, 6, 64, 0, len(request)).ljust(size)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is short, and so is the patience."""
    monkeypatch.setattr(discovery, "_SHORTEST", 0.02)


@linux
@pytest.mark.usefixtures("hurried")
@pytest_twisted.ensureDeferred
async def test_a_black_hole_is_told_as_that_and_the_way_back_as_far_as_it_can_be_tried(peers: Peers) -> None:
    target = peers.datagram(only_up_to(1372, lambda asked: measured(asked, int(wire.fields_of(asked).get("p", 0)))))
    found = await find(target)
    assert (found.there.mtu, found.black_hole, found.icmp_from) == (1400, True, None)
    assert (found.back.mtu, found.back.bound) == (1399, "least")
    assert found.back.words == "a longer answer needs a longer request, which does not pass"


@linux
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: b"Thank you for connecting\r\n", id="does not measure"),
        pytest.param(measured, id="does not pad"),
        pytest.param(lambda asked: measured(asked, int(wire.fields_of(asked).get("p", 0)) + 1), id="pads too much"),
        pytest.param(lambda asked: b"x" * 3000, id="long"),
        pytest.param(lambda asked: b"", id="empty"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_of_a_server_that_does_not_pad_the_way_back_is_not_known(peers: Peers, answer: Any) -> None:
    found = await find(peers.datagram(only_up_to(9000, answer)))
    assert found.there.mtu == 9028
    assert found.back.mtu is None
    assert found.back.words == "the server does not pad its answers: it is an older one, or does not measure"


@linux
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: b"Thank you for connecting\r\n", id="greets"),
        pytest.param(lambda asked: asked[8:], id="echoes"),
        pytest.param(lambda asked: b"greeted 1 " + b"0" * 50, id="says something like it"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_service_that_may_read_shorter_requests_only_is_no_black_hole(peers: Peers, answer: Any) -> None:
    found = await find(peers.datagram(only_up_to(1372, answer)))
    assert (found.there.mtu, found.there.bound, found.black_hole, found.icmp_from) == (1400, "least", None, None)
    assert "a black hole, or this service does not read longer requests" in found.there.words
    assert 'black_hole": null' in mtu_lines(found, as_json=True).out[0]


@linux
@pytest.mark.usefixtures("hurried")
@pytest_twisted.ensureDeferred
async def test_an_answer_to_another_request_counts_for_nothing(peers: Peers) -> None:
    def lie(request: bytes) -> bytes:
        return measured(request).replace(wire.nonce_of(request).encode(), b"0" * 16)  # type: ignore[union-attr]

    with pytest.raises(GreetFailed, match="no answer to 1 request in packets of 576 bytes") as failed:
        await find(peers.datagram(only_up_to(9999, lie)), timeout=0.5)
    assert failed.value.errno == errno.ETIMEDOUT


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"])
@pytest_twisted.ensureDeferred
async def test_a_port_that_nothing_listens_on_is_a_failure(free_port: int, host: str) -> None:
    with pytest.raises(GreetFailed) as failed:
        await find(f"udp:{host}:{free_port}")
    assert failed.value.errno == errno.ECONNREFUSED
    assert failed.value.icmp is not None
    assert failed.value.icmp.sender == "target"


@linux
@pytest_twisted.ensureDeferred
async def test_when_the_time_is_over_what_is_known_so_far_is_told(peers: Peers) -> None:
    found = await find(peers.datagram(only_up_to(1372, measured)), timeout=1.5)
    assert (found.there.bound, found.there.words) == ("least", "the time-out (-t) ended the search")
    assert 576 <= found.there.mtu <= 1400
    assert (found.back.mtu, found.black_hole) == (None, None)


INFO = TcpInfo(100, 1348, 0, 1448, timestamps=True, sack=True, wscale=True, path_mtu=1400, out_of_order=0)
SENT = Sent(Address("10.0.2.2", 8088), local=Address("10.0.1.1", 5), tcp=INFO, timestamp=100, since=0.1)
SYN = Syn(64, 0, 0, 1460, 7, sack=True, timestamps=True, tsval=100)
RECORD = wire.PathRecord(
    *("0badcafe", None, "tcp", Address("10.0.1.1", 5), Address("10.0.2.2", 8088), None),
    syn=SYN,
    tcp=wire.Tcp(100, 1188, 0),
    tls=None,
    datagram=None,
)


def over_tcp(sent: Sent | None, record: wire.PathRecord | None = None) -> Greeting:
    said = b"hello\r\n" if record is None else wire.encode_record(record)
    path = None if record is None or sent is None else compare(sent, record)
    return Greeting(parse("10.0.2.2"), said, "", Seconds(), Address("10.0.2.2", 8088), "fin", sent=sent, path=path)


def test_over_tcp_the_kernels_tell_what_they_send_at_most() -> None:
    found = kernel_mtu(over_tcp(SENT, RECORD))
    assert found.as_json()["mtu"] == {
        "there": 1400,
        "back": 1240,
        "icmp_from": None,
        "black_hole": None,
        "bound": {"there": "most", "back": "most"},
    }
    assert kernel_mtu(over_tcp(SENT)).back.mtu == 1500
    six = evolve(SENT, local=Address("fd00::1", 5), tcp=INFO._replace(advertised_mss=1428, mss=1328))
    assert [kernel_mtu(over_tcp(six)).there.mtu, kernel_mtu(over_tcp(six)).back.mtu] == [1400, 1500]


def test_the_mss_of_a_proxy_is_not_that_of_the_server() -> None:
    foreign = evolve(RECORD, syn=evolve(SYN, tsval=2**31))
    assert kernel_mtu(over_tcp(SENT, foreign)).back.mtu == 1500


def test_long_packets_that_are_missing_are_a_black_hole() -> None:
    late = evolve(SENT, later=INFO._replace(out_of_order=2))
    found = kernel_mtu(GreetFailed(errno.ETIMEDOUT, "no greeting", sent=late))
    assert found.black_hole is True
    assert "a black hole" in found.back.words
    assert kernel_mtu(over_tcp(None)).there.mtu is None
