"""Silent connections to real servers: who ended them, and when the reason is not known."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from greetsvc.client import ClientTls, GreetFailed, Talk
from greetsvc.client.hold import Held, HoldResult, Search
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe import hold
from greetsvc.client.probe.hold import Holding
from greetsvc.client.probe.probe import Probe
from greetsvc.client.target import parse
from tests.support.talkers import Rule, Talkers, fin, hang, reset
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("quick_beat")
LINUX = sys.platform == "linux"


@pytest.fixture
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that is never silent speaks more often, so that the tests need less time."""
    monkeypatch.setattr(hold, "_BEAT", 0.1)


def holding(target: str, seconds: float, *, search: bool = False, protocol: str = "lines", **options: Any) -> Holding:
    probe = Probe(parse(target), ProbeOptions(talk=Talk(protocol), **{"timeout": 0.5, **options}))
    return Holding(probe, Search(seconds, search), reactor)


async def held(target: str, seconds: float, **options: Any) -> tuple[HoldResult, Held]:
    run = holding(target, seconds, **options)
    await run.run()
    result = run.result()
    assert result is not None
    assert result.held is not None
    return result, result.held


@pytest_twisted.ensureDeferred
async def test_a_healthy_connection_survives(talkers: Talkers, protocol: str) -> None:
    result, one = await held(talkers.start(protocol), 0.2, protocol=protocol)
    assert result.survived
    assert (one.closed, one.spoken, one.idle) == (None, True, True)
    assert one.silence >= 0.2
    assert one.reply is not None
    assert result.active is None


@pytest.mark.parametrize("pem", [False, True])
@pytest.mark.parametrize(("ending", "closed"), [(fin, "fin"), (reset, "reset")])
@pytest_twisted.ensureDeferred
async def test_who_ends_a_silent_connection_is_told_with_the_time(
    talkers: Talkers, papers: Any, ending: Any, closed: str, pem: bool
) -> None:
    """The other connection speaks often, and the server allows 0.8 s of silence.

    The server's silence begins when it sends, ours when we read.
    """
    target = talkers.start(rule=Rule(silence=0.8, ending=ending), pem=papers.path("good") if pem else None)
    result, one = await held(target, 20, tls=ClientTls(insecure=True) if pem else None)
    assert (one.closed, one.spoken) == (closed, False)
    assert one.silence == pytest.approx(result.limit)
    assert one.silence >= 0.4
    assert result.active is None
    assert result.survived is False


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_after_a_silence_has_acknowledged_our_message(talkers: Talkers) -> None:
    result, one = await held(talkers.start(rule=Rule(silence=0.8, ending=hang)), 1.0)
    assert (one.closed, one.spoken) == ("timeout", True)
    assert (one.acknowledged, one.sent_again) == ((True, 0) if LINUX else (None, None))
    assert (result.limit, result.active) == (None, None)


@pytest_twisted.ensureDeferred
async def test_a_server_that_ends_every_connection_has_no_limit_on_silence(talkers: Talkers) -> None:
    run = holding(talkers.start(), 20)
    running = Deferred.fromCoroutine(run.run())
    await until(lambda: len(talkers.made) == 2 and talkers.made[1].count)
    for talker in talkers.made:
        fin(talker)
    await running
    result = run.result()
    assert result is not None
    assert result.held is not None
    assert (result.held.closed, result.held.spoken) == ("fin", False)
    assert (result.survived, result.limit) == (None, None)
    assert result.active is not None
    assert result.active.phase == "talk"


@pytest_twisted.ensureDeferred
async def test_a_silence_was_survived_whatever_became_of_the_other_connection(talkers: Talkers) -> None:
    run = holding(talkers.start(), 0.4)
    running = Deferred.fromCoroutine(run.run())
    await until(lambda: len(talkers.made) == 2 and talkers.made[1].count)
    fin(talkers.made[0])
    await running
    result = run.result()
    assert result is not None
    assert (result.survived, result.is_ambiguous) == (True, False)
    assert result.active is not None


@pytest_twisted.ensureDeferred
async def test_a_part_of_an_answer_shows_that_the_silence_was_survived(peers: Any) -> None:
    def speak(sock: socket.socket) -> None:
        sock.sendall(b"Hello\n")
        sock.recv(100)
        sock.sendall(b"one\n")
        sock.recv(100)
        sock.sendall(b"par")

    result, one = await held(peers.stream(speak), 0.2)
    assert (one.closed, one.spoken, one.part) == ("fin", True, "par")
    assert result.survived


@pytest_twisted.ensureDeferred
async def test_websocket_says_why_it_closes_a_silent_connection(talkers: Talkers) -> None:
    _, one = await held(talkers.start("websocket", Rule(silence=0.8)), 5, protocol="websocket")
    assert (one.closed, one.spoken, one.said) == ("fin", False, "status 1008 enough")
    assert one.silence >= 0.4


@pytest_twisted.ensureDeferred
async def test_a_search_holds_several_connections_at_once(talkers: Talkers) -> None:
    """The server allows 1.3 s: 1 s is survived, and the end of those that wait for 1.5 s and more is seen."""
    told: list[Held] = []
    run = holding(talkers.start(rule=Rule(silence=1.3)), 5, search=True)
    run.each = told.append
    await run.run()
    result = run.result()
    assert result is not None
    assert (told[0].survived, round(told[0].silence, 1)) == (True, 1.0)
    assert result.limit == pytest.approx(1.3, abs=0.1 * 1.3 + 1)
    assert result.held is not None
    assert (result.held.closed, result.survived) == ("fin", False)
    assert len(talkers.made) == 6


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_talk_is_no_verdict_on_silence(peers: Any, greets_once: Any) -> None:
    run = holding(peers.stream(greets_once), 5)
    with pytest.raises(GreetFailed, match="it does not talk") as caught:
        await run.run()
    assert (caught.value.phase, caught.value.errno) == ("talk", errno.ENODATA)
    assert run.result() is None


@pytest_twisted.ensureDeferred
async def test_nothing_listens(free_port: int) -> None:
    run = holding(f"127.0.0.1:{free_port}", 5)
    with pytest.raises(GreetFailed) as caught:
        await run.run()
    assert caught.value.errno == errno.ECONNREFUSED
    assert run.result(stopped=True) is None


@pytest_twisted.ensureDeferred
async def test_connections_that_are_refused_are_counted_and_the_others_go_on(talkers: Talkers) -> None:
    def end_the_third(talker: Any) -> None:
        if talkers.made.index(talker) == 2:
            fin(talker)
        else:
            talker.say(b"Hello")

    run = holding(talkers.start(rule=Rule(after=0, ending=end_the_third)), 1.4, search=True)
    await run.run()
    result = run.result()
    assert result is not None
    assert [each.survived for each in result.tried] == [True]
    assert len(run.refused) == 1


@pytest_twisted.ensureDeferred
async def test_what_is_known_when_it_is_stopped(talkers: Talkers) -> None:
    told: list[Held] = []
    trace: list[str] = []
    run = holding(talkers.start(), 60, search=True)
    run.each, run.trace = told.append, trace.append
    running = Deferred.fromCoroutine(run.run())
    await until(lambda: told)
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    result = run.result(stopped=True)
    assert result is not None
    assert result.held == told[0]
    assert (result.survived, result.limit) == (None, None)
    assert "> 1 s: greet (5 bytes)" in trace
    assert "> active: greet (5 bytes)" in trace


@pytest_twisted.ensureDeferred
async def test_what_a_server_says_before_it_closes_is_kept(talkers: Talkers) -> None:
    def say_and_close(talker: Any) -> None:
        talker.say(b"too quiet")
        fin(talker)

    _, one = await held(talkers.start(rule=Rule(silence=0.8, ending=say_and_close)), 5)
    assert (one.closed, one.said) == ("fin", "too quiet")


@pytest_twisted.ensureDeferred
async def test_a_first_message_that_is_refused_is_no_verdict_on_silence(serve: Any) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", protocol="lines:max=5")
    with pytest.raises(GreetFailed) as caught:
        await holding(f"127.0.0.1:{serving.ports[0]}", 0.1).run()
    assert (caught.value.phase, caught.value.errno) == ("talk", errno.EPROTO)
    assert caught.value.strerror == "the server refused our message: a line is longer than 5 bytes"


@pytest_twisted.ensureDeferred
async def test_a_refusal_after_the_silence_shows_that_it_was_survived(serve: Any) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", protocol="lines:total=1")
    result, silent = await held(f"127.0.0.1:{serving.ports[0]}", 0.2)
    assert silent.survived
    assert silent.reply is not None
    assert result.active is None or "a connection has 1 message" in str(result.active)
