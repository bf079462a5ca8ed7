"""Load runs that talk: each message is answered on a connection that stays open."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from greetsvc import Run
from greetsvc.client import ClientTls, Talk
from greetsvc.client.load.connections import GREETED
from greetsvc.client.load.metrics import LoadMetrics
from greetsvc.client.load.polling import HANGUP, new_poller
from greetsvc.client.load.talk import Speech, TalkStreams
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.report.load import JsonLoadReport, TextLoadReport
from greetsvc.client.talk.framing import Lines
from tests.support.talkers import Rule, Talkers, fin, hang, reset
from tests.support.waiting import PATIENCE

BOTH = ("Ada", "Grace")


async def carried_out(target: str, talk: Talk, duration: float = 0.3, **options: Any) -> Run:
    run = await Run(target, duration=duration, talk=talk, **{"concurrency": 4, **options}).go()
    metrics = run.metrics
    assert metrics.sent == metrics.greeted + metrics.lost
    assert metrics.greeted == metrics.corrected.count
    return run


def kinds(metrics: LoadMetrics) -> set[tuple[str, int, str]]:
    return {(failure.phase, failure.errno, failure.words) for failure in metrics.failures}


@pytest_twisted.ensureDeferred
async def test_messages_are_answered_on_connections_that_stay_open(talkers: Talkers, protocol: str) -> None:
    run = await carried_out(talkers.start(protocol), Talk(protocol, BOTH), expect="^Hello (Ada|Grace)$")
    metrics = run.metrics
    assert (metrics.lost, metrics.flawed) == (0, 0)
    assert metrics.greeted > 8
    assert metrics.connections is not None
    assert (metrics.connections.opened, metrics.connections.most, metrics.connections.open) == (4, 4, 0)
    assert metrics.connections.seconds.count == 4
    assert metrics.connection_rate == pytest.approx(metrics.rate / 4)
    (opened, times) = TextLoadReport().end(run).out[-2:]
    assert opened.startswith("4 connections, at most 4 at a time: ")
    assert times.startswith("connect and greeting: min ")
    assert '"connections": {"opened": 4, "most": 4, "rate": ' in JsonLoadReport().end(run).out[0]


@pytest.mark.parametrize(
    ("kind", "protocol"), [("tls", "lines"), ("tls", "websocket"), ("unix", "lines"), ("unix", "int32")]
)
@pytest_twisted.ensureDeferred
async def test_load_over_tls_and_unix_sockets(
    talkers: Talkers, papers: Any, tmp_path: Path, kind: str, protocol: str
) -> None:
    where: Any = {"pem": papers.path("good")} if kind == "tls" else {"path": tmp_path / "talk"}
    tls = ClientTls(ca=papers.path("ca")) if kind == "tls" else None
    run = await carried_out(talkers.start(protocol, **where), Talk(protocol), tls=tls, expect="^Hello greet$")
    assert (run.metrics.lost, run.metrics.flawed) == (0, 0)
    assert run.metrics.greeted > 8
    assert run.metrics.connections is not None
    assert run.metrics.connections.opened == 4


@pytest_twisted.ensureDeferred
async def test_with_a_rate_messages_have_intended_times(talkers: Talkers) -> None:
    run = await carried_out(talkers.start(), Talk("lines"), rate=50, concurrency=8)
    metrics = run.metrics
    assert (metrics.sent, metrics.greeted) == (15, 15)
    assert metrics.uncorrected is not None
    assert metrics.connections is not None
    assert 1 <= metrics.connections.opened <= 8


@pytest.mark.parametrize(
    ("ending", "number", "words"),
    [
        (fin, errno.ENODATA, "the server closed the connection"),
        (reset, errno.ECONNRESET, "Connection reset by peer"),
        (hang, errno.ETIMEDOUT, "no reply in time"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_message_without_a_reply_is_lost_and_the_next_has_a_new_connection(
    talkers: Talkers, ending: Any, number: int, words: str
) -> None:
    target = talkers.start(rule=Rule(after=1, ending=ending))
    metrics = (
        await carried_out(target, Talk("lines"), 0.6, concurrency=1, timeout=0.3 if ending is hang else 5)
    ).metrics
    assert kinds(metrics) == {("talk", number, words)}
    assert metrics.connections is not None
    assert metrics.connections.opened > 1
    assert metrics.greeted >= metrics.lost >= 1
    assert (metrics.connections.most, metrics.connections.open) == (1, 0)


@pytest_twisted.ensureDeferred
async def test_a_websocket_close_ends_a_connection(talkers: Talkers) -> None:
    target = talkers.start("websocket", Rule(after=2))
    metrics = (await carried_out(target, Talk("websocket"), concurrency=1)).metrics
    assert kinds(metrics) <= {("talk", errno.ENODATA, "the server closed the connection")}
    assert metrics.connections is not None
    assert metrics.connections.opened > 1
    assert metrics.greeted > 2


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_talk(peers: Any, greets_once: Any) -> None:
    target = peers.stream(greets_once)
    metrics = (await carried_out(target, Talk("lines"), concurrency=1)).metrics
    assert metrics.greeted == 0
    assert kinds(metrics) == {("talk", errno.ENODATA, "the server closed after its greeting: it does not talk")}


@pytest.mark.parametrize(
    ("said", "phase", "number", "words"),
    [
        (b"Hello\r\n", "greet", errno.EPROTO, "what came is not a netstring"),
        (b"5:Hello,Hello", "greet", errno.EPROTO, "what came is not a netstring"),
        (b"5:Hel", "greet", errno.ENODATA, "no whole greeting came"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_something_else(
    peers: Any, said: bytes, phase: str, number: int, words: str
) -> None:
    def speak(sock: socket.socket) -> None:
        sock.sendall(said)

    metrics = (await carried_out(peers.stream(speak), Talk("netstring"), concurrency=1, timeout=0.5)).metrics
    assert kinds(metrics) == {(phase, number, words)}


@pytest_twisted.ensureDeferred
async def test_more_than_the_reply_is_told_and_the_reply_counts(peers: Any) -> None:
    """As for a single probe. The connection is not used again: a later reply could be that to another message."""

    def speak(sock: socket.socket) -> None:
        sock.sendall(b"Hello\n")
        if sock.recv(100):
            sock.sendall(b"one\ntwo\n")

    metrics = (await carried_out(peers.stream(speak), Talk("lines"), concurrency=1)).metrics
    assert metrics.greeted == metrics.sent > 0
    assert kinds(metrics) == {("talk", errno.EPROTO, "the server said what answers nothing")}
    assert metrics.connections is not None
    assert metrics.connections.opened >= metrics.greeted


@pytest_twisted.ensureDeferred
async def test_nothing_listens(free_port: int) -> None:
    metrics = (await carried_out(f"127.0.0.1:{free_port}", Talk("lines"), concurrency=1)).metrics
    assert kinds(metrics) == {("connect", errno.ECONNREFUSED, "Connection refused")}


@pytest_twisted.ensureDeferred
async def test_long_messages_to_a_server_that_reads_slowly_arrive_whole(talkers: Talkers, papers: Any) -> None:
    said = "x" * 40_000
    for pem in (None, papers.path("good")):
        target = talkers.start("int32", pem=pem)
        tls = ClientTls(insecure=True) if pem else None
        run = await carried_out(target, Talk("int32", (said,)), tls=tls, expect=f"^Hello {said[:1000]}")
        assert (run.metrics.lost, run.metrics.flawed) == (0, 0)


def test_an_idle_connection_that_the_server_closes_is_not_used_again(peers: Any) -> None:
    def answer_once(sock: socket.socket) -> None:
        sock.sendall(b"Hello\n")
        sock.recv(100)
        sock.sendall(b"Hello greet\n")

    host, _, port = peers.stream(answer_once).rpartition(":")
    poller = new_poller()
    streams = TalkStreams(SocketAddress(socket.AF_INET, (host, int(port))), 1000, poller)
    streams.talk(Speech(lambda: Lines(1000, "utf-8"), (b"greet",), from_message=True))
    first = streams.open()
    assert streams.start(first) is None
    result = None
    while result is None:
        for fd, events in poller.poll(PATIENCE, 1):
            assert fd == first.fd
            result = streams.ready(first, events & ~HANGUP)
    assert (result, first.data) == (GREETED, b"Hello greet")
    streams.release(first, greeted=True)
    assert streams.connections.open == 1
    while streams.connections.open:
        for fd, _ in poller.poll(PATIENCE, 1):
            streams.idle_ready(fd)
    second = streams.open()
    assert second is not first
    streams.release(second, greeted=False)
    streams.close()
    poller.close()


@pytest.mark.parametrize(
    ("options", "say", "lost"),
    [(":max=5", ("Augusta",), "all"), (":max=5", ("Ada", "Augusta"), "half"), (":total=3", ("Ada",), "some")],
)
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_refused_is_lost(serve: Any, options: str, say: tuple[str, ...], lost: str) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", protocol=f"lines{options}")
    run = await carried_out(f"127.0.0.1:{serving.ports[0]}", Talk("lines", say))
    metrics = run.metrics
    ((phase, number, words),) = kinds(metrics)
    assert (phase, number) == ("talk", errno.EPROTO)
    assert words.startswith("the server refused the message: ")
    assert metrics.lost
    assert bool(metrics.greeted) == (lost != "all")
    if lost == "half":
        assert abs(metrics.greeted - metrics.lost) <= 4


@pytest_twisted.ensureDeferred
async def test_a_message_that_looks_like_a_refusal_may_be_in_its_reply(serve: Any) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", protocol="lines", greeting="{name}")
    run = await carried_out(f"127.0.0.1:{serving.ports[0]}", Talk("lines", ("error: Ada",)))
    assert run.metrics.greeted
    assert not run.metrics.lost
