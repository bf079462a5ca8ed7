"""Probes that talk: every protocol and transport, and servers that stop answering."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls, Talk
from greetsvc.client.options import ProbeOptions, ProxyClaim
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.causes import likely_cause
from greetsvc.client.stats import Expectations, RunStats
from greetsvc.client.target import parse
from greetsvc.errors import ConfigError
from greetsvc.visit import Address
from tests.support.talkers import Rule, Talkers, fin, hang, reset
from tests.support.waiting import until

BOTH = ("Ada", "Grace")


async def failure(target: str, talk: Talk, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await greet(target, talk=talk, **options)
    return caught.value


def replies(result: Greeting | GreetFailed) -> list[tuple[str, str]]:
    assert result.talk is not None
    return [(trip.said, trip.reply) for trip in result.talk.round_trips]


@pytest_twisted.ensureDeferred
async def test_each_message_gets_its_reply(talkers: Talkers, protocol: str) -> None:
    trace: list[str] = []
    greeting = await greet(talkers.start(protocol), talk=Talk(protocol, BOTH), trace=trace.append)
    assert (greeting.text, greeting.data, greeting.closed) == ("Hello", b"Hello", "fin")
    assert replies(greeting) == [("Ada", "Hello Ada"), ("Grace", "Hello Grace")]
    assert greeting.said == "Hello\nHello Ada\nHello Grace"
    assert greeting.talk is not None
    assert greeting.talk.close is not None
    assert greeting.took is not None
    assert 0 < greeting.talk.seconds < greeting.seconds.total
    assert greeting.took + greeting.talk.seconds == pytest.approx(greeting.seconds.total)
    steps = [line[:12] for line in trace if line[0] in "<>"]
    assert steps == ["< Hello (5 b", "> Ada (3 byt", "< Hello Ada ", "> Grace (5 b", "< Hello Grac"]


@pytest.mark.parametrize(("kind", "protocol"), [("tls", "netstring"), ("tls", "websocket"), ("unix", "netstring")])
@pytest_twisted.ensureDeferred
async def test_talk_over_tls_and_unix_sockets(
    talkers: Talkers, papers: Any, tmp_path: Path, kind: str, protocol: str
) -> None:
    where: Any = {"pem": papers.path("good")} if kind == "tls" else {"path": tmp_path / "talk"}
    tls = ClientTls(ca=papers.path("ca")) if kind == "tls" else None
    greeting = await greet(talkers.start(protocol, **where), talk=Talk(protocol, BOTH), tls=tls)
    assert replies(greeting) == [("Ada", "Hello Ada"), ("Grace", "Hello Grace")]
    assert greeting.closed == "fin"


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "shift-jis", "utf-16"])
@pytest_twisted.ensureDeferred
async def test_messages_and_replies_have_the_encoding_of_the_probe(talkers: Talkers, encoding: str) -> None:
    greeting = await greet(talkers.start("int32"), talk=Talk("int32", ("名",)), encoding=encoding)
    assert greeting.talk is not None
    sent = "名".encode(encoding)
    assert greeting.talk.round_trips[0].reply == (b"Hello " + sent).decode(encoding, "backslashreplace")


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_after_its_greeting_does_not_talk(peers: Any, greets_once: Any) -> None:
    failed = await failure(peers.stream(greets_once), Talk("lines"))
    assert (failed.phase, failed.errno, failed.closed) == ("talk", errno.ENODATA, "fin")
    assert failed.strerror == "the server closed after its greeting: it does not talk"
    assert "greets and closes (--protocol once)" in likely_cause(failed)[0]
    assert replies(failed) == []


@pytest.mark.parametrize(
    ("ending", "number", "words", "cause"),
    [
        (fin, errno.ENODATA, "the server closed the connection, before it answered message 2", "or it was stopped"),
        (reset, errno.ECONNRESET, "Connection reset by peer: no answer to message 2", "a device on the path ended"),
        (hang, errno.ETIMEDOUT, "no answer to message 2 within 0.3 s", "packets are lost or late"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_message_without_a_reply_is_a_failure(
    talkers: Talkers, ending: Any, number: int, words: str, cause: str
) -> None:
    failed = await failure(talkers.start(rule=Rule(after=1, ending=ending)), Talk("lines", BOTH), timeout=0.3)
    assert (failed.phase, failed.errno, failed.strerror) == ("talk", number, words)
    assert replies(failed) == [("Ada", "Hello Ada")]
    assert cause in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_the_reason_of_a_websocket_close_is_told(talkers: Talkers) -> None:
    failed = await failure(talkers.start("websocket", Rule(after=1)), Talk("websocket", BOTH))
    assert (failed.phase, failed.errno, failed.closed) == ("talk", errno.ENODATA, "fin")
    assert failed.strerror == "the server closed: status 1008 enough"
    assert replies(failed) == [("Ada", "Hello Ada")]


@pytest.mark.parametrize(
    ("said", "number", "words", "cause"),
    [
        (b"Hello\r\n", errno.EPROTO, "what came is not a netstring", "another protocol than that of --talk"),
        (b"5:Hel", errno.ETIMEDOUT, "no whole greeting came, only 5 bytes", "another protocol than that of --talk"),
        (b"", errno.ETIMEDOUT, "no greeting within 0.2 s", "another protocol than that of --talk"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", errno.EPROTO, "a TLS record came in place of a greeting", "speaks TLS"),
        (b"5:Hello,5:Hello:", errno.EPROTO, "a netstring came that does not end with a comma", "another protocol"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_something_else_is_told(
    peers: Any, said: bytes, number: int, words: str, cause: str
) -> None:
    def speak(sock: socket.socket) -> None:
        sock.sendall(said)
        peers.hold()

    failed = await failure(peers.stream(speak), Talk("netstring"), timeout=0.2)
    assert (failed.phase, failed.errno, failed.strerror) == ("greet", number, words)
    assert cause in likely_cause(failed)[0]


@pytest.mark.parametrize(
    ("protocol", "greeting", "part"),
    [("lines", b"Hello\n", b"par"), ("netstring", b"5:Hello,", b"9:p"), ("int32", b"\0\0\0\5Hello", b"\0\0\0")],
)
@pytest.mark.parametrize(
    ("ending", "number", "how"),
    [
        ("fin", errno.ENODATA, "the server closed the connection"),
        ("reset", errno.ECONNRESET, "Connection reset by peer"),
        ("hang", errno.ETIMEDOUT, "no more within 0.3 s"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_part_of_a_reply_is_not_no_reply(
    peers: Any, reset: Any, protocol: str, greeting: bytes, part: bytes, ending: str, number: int, how: str
) -> None:
    def speak(sock: socket.socket) -> None:
        sock.sendall(greeting)
        sock.recv(100)
        sock.sendall(part)
        if ending != "fin":
            peers.over.wait(0.05)
            reset(sock) if ending == "reset" else peers.hold()

    failed = await failure(peers.stream(speak), Talk(protocol), timeout=0.3)
    assert (failed.phase, failed.errno) == ("talk", number)
    assert failed.strerror == f"only {len(part)} bytes of the answer to our message came: {how}"


def websocket(sock: socket.socket, *frames: bytes) -> None:
    """The server's end up to the upgrade; then these frames, each after a message."""
    server = WSConnection(ConnectionType.SERVER)
    while not list(server.events()):
        server.receive_data(sock.recv(1000))
    sock.sendall(server.send(AcceptConnection()))
    for number, frame in enumerate(frames):
        if number:
            sock.recv(1000)
        sock.sendall(frame)


BROKEN = {
    "a reserved bit": b"\xc1\x02hi",
    "a mask": b"\x81\x82abcdhi",
    "an unknown opcode": b"\x83\x02hi",
    "not UTF-8": b"\x81\x02\xff\xff",
    "the rest of nothing": b"\x80\x02hi",
    "a long ping": b"\x89\x7e\x00\xc8" + bytes(200),
    "a ping in parts": b"\x09\x02hi",
    "a message within another": b"\x01\x01h\x81\x01i",
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("phase", ["greet", "talk"])
@pytest_twisted.ensureDeferred
async def test_a_broken_frame_of_websocket_is_no_close_by_the_server(peers: Any, broken: str, phase: str) -> None:
    frames = [b"\x81\x05Hello", BROKEN[broken]] if phase == "talk" else [BROKEN[broken]]

    def speak(sock: socket.socket) -> None:
        websocket(sock, *frames)
        peers.hold()

    failed = await failure(peers.stream(speak), Talk("websocket"), timeout=5)
    assert (failed.phase, failed.errno) == (phase, errno.EPROTO)
    assert (failed.strerror or "").startswith("what came is not WebSocket: ")


@pytest_twisted.ensureDeferred
async def test_a_websocket_close_in_place_of_the_greeting_says_why(peers: Any) -> None:
    failed = await failure(peers.stream(lambda sock: websocket(sock, b"\x88\x08\x03\xf0no way")), Talk("websocket"))
    assert (failed.phase, failed.errno) == ("greet", errno.ENODATA)
    assert failed.strerror == "the server closed: status 1008 no way"


@pytest_twisted.ensureDeferred
async def test_what_the_server_says_without_being_asked_is_a_remark(peers: Any) -> None:
    def chat(sock: socket.socket) -> None:
        sock.sendall(b"Hello\n")
        sock.recv(100)
        sock.sendall(b"one\ntwo\n")
        sock.recv(100)

    greeting = await greet(peers.stream(chat), talk=Talk("lines"))
    assert replies(greeting) == [("greet", "one")]
    assert greeting.notes == ("the server said what answers nothing: two",)


@pytest.mark.parametrize("protocol", ["lines", "netstring", "int32", "websocket"])
@pytest.mark.parametrize(
    ("options", "encoding", "say", "which", "why"),
    [
        (":max=5", "utf-8", ("Augusta",), "our message", "5"),
        (":max=5", "utf-8", ("Ada", "Augusta", "Grace"), "message 2", "5"),
        (":total=2", "utf-8", ("Ada", "Grace", "Mary"), "message 3", "a connection has 2 messages"),
        ("", "big5", ("\u0e01",), "our message", "the message is not text in big5"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_refused_is_a_failure_with_the_reason(
    serve: Any, protocol: str, options: str, encoding: str, say: tuple[str, ...], which: str, why: str
) -> None:
    if protocol == "websocket" and encoding != "utf-8":
        pytest.skip("WebSocket has one encoding")
    serving = serve("tcp:0:interface=127.0.0.1", protocol=f"{protocol}{options}", encoding=encoding)
    failed = await failure(f"127.0.0.1:{serving.ports[0]}", Talk(protocol, say))
    assert (failed.phase, failed.errno) == ("talk", errno.EPROTO)
    assert str(failed.strerror).startswith(f"the server refused {which}: ")
    assert why in str(failed.strerror)
    assert likely_cause(failed) == (
        "likely: a limit or rule of the server, or it reads another encoding than that of --encoding",
    )
    # What came is told all the same.
    assert [said for said, _ in replies(failed)] == [*say[: len(replies(failed))]]
    assert replies(failed)[-1][1].startswith("error: ")


@pytest_twisted.ensureDeferred
async def test_a_name_may_look_like_a_refusal(serve: Any) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", protocol="lines", greeting="{name}")
    greeting = await greet(f"127.0.0.1:{serving.ports[0]}", talk=Talk("lines", ("error: Ada", "Grace")))
    assert replies(greeting) == [("error: Ada", "error: Ada"), ("Grace", "Grace")]


@pytest_twisted.ensureDeferred
async def test_a_proxy_header_comes_before_the_talk(peers: Any) -> None:
    heard: list[bytes] = []

    def behind_proxy(sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            heard.append(lines.readline())
            sock.sendall(b"Hello\n")
            heard.append(lines.readline())
            sock.sendall(b"Hi\n")
            lines.read()

    options = ProbeOptions(talk=Talk("lines"), proxy=ProxyClaim(1, Address("192.0.2.1", 7)))
    await Probe(parse(peers.stream(behind_proxy)), options).run()
    assert [line.split()[0] for line in heard] == [b"PROXY", b"greet"]


@pytest_twisted.ensureDeferred
async def test_a_probe_that_talks_can_be_cancelled(talkers: Talkers) -> None:
    probe = Deferred.fromCoroutine(greet(talkers.start(rule=Rule(after=0, ending=hang)), talk=Talk("lines")))
    await until(lambda: talkers.made and talkers.made[0].deaf)
    probe.cancel()
    with pytest.raises(CancelledError):
        await probe


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"talk": Talk("lines", ("名",)), "encoding": "latin-1"}, "cannot be written in latin-1"),
        ({"talk": Talk("websocket"), "encoding": "gbk"}, "the text of WebSocket is UTF-8"),
    ],
)
def test_what_cannot_be_said_is_refused(options: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProbeOptions(**options)
    assert caught.value.why == line


def test_messages_and_protocols_are_checked() -> None:
    for wrong, why in (
        (("line", ("a",)), "must be one of lines, netstring, int32, websocket"),
        (("lines", ("a\nb",)), "a message in a line cannot have a line end"),
    ):
        with pytest.raises(ConfigError) as caught:
            Talk(*wrong)
        assert caught.value.why == why
    with pytest.raises(ConfigError, match="needs a stream target, not udp:h:8088"):
        Probe(parse("udp:h"), ProbeOptions(talk=Talk("lines")))


@pytest_twisted.ensureDeferred
async def test_a_pattern_may_match_the_greeting_or_a_reply(talkers: Talkers) -> None:
    greeting = await greet(talkers.start(), talk=Talk("lines", BOTH))
    for pattern, flaws in (("Grace$", 0), ("^Hello", 0), ("Ada", 0), ("Linus", 1)):
        assert len(Expectations.of(pattern, None).flaws(greeting)) == flaws
    stats = RunStats()
    stats.add(greeting, [])
    assert (stats.round_trips.count, stats.seconds.count) == (2, 1)
