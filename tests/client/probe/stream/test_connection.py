"""Probes over streams: real peers on loopback."""

from __future__ import annotations

import errno
import operator
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from greetsvc import GreetFailed, Greeting, greet, greet_ex
from greetsvc.client import ClientTls
from greetsvc.client.report.causes import likely_cause
from greetsvc.visit import Address

THANKS = b"Thank you for connecting\r\n"


def hello(connection: socket.socket) -> None:
    connection.sendall(THANKS)


async def failure(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await greet(target, **options)
    return caught.value


@pytest_twisted.ensureDeferred
async def test_the_tutorials_server_greets(peers: Any) -> None:
    target = peers.stream(hello)
    greeting = await greet(target)
    assert greeting.data == THANKS
    assert greeting.text == "Thank you for connecting\r\n"
    assert greeting.closed == "fin"
    assert greeting.peer == Address("127.0.0.1", int(target.rpartition(":")[2]))
    assert greeting.seconds.resolve is None
    assert greeting.seconds.tls is None
    assert greeting.seconds.connect is not None
    assert greeting.seconds.first_byte is not None
    assert 0 < greeting.seconds.connect + greeting.seconds.first_byte <= greeting.seconds.total


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_greets(peers: Any, tmp_path: Path) -> None:
    greeting = await greet(peers.stream(hello, path=tmp_path / "s"))
    assert greeting.data == THANKS
    assert greeting.peer == Address(str(tmp_path / "s"), 0)


@pytest_twisted.ensureDeferred
async def test_a_missing_unix_socket_is_named_at_connect(tmp_path: Path) -> None:
    failed = await failure(f"unix:{tmp_path}/none")
    assert (failed.errno, failed.phase) == (errno.ENOENT, "connect")


@pytest_twisted.ensureDeferred
async def test_a_greeting_in_pieces_is_whole(peers: Any) -> None:
    def pieces(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in "Grüß Gott\r\n".encode():
            connection.sendall(bytes([byte]))
            peers.over.wait(0.005)

    assert (await greet(peers.stream(pieces))).text == "Grüß Gott\r\n"


@pytest_twisted.ensureDeferred
async def test_a_greeting_in_another_encoding_is_decoded(peers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall("Grüß Gott".encode("utf-16")))
    assert (await greet(target, encoding="utf-16")).text == "Grüß Gott"


@pytest_twisted.ensureDeferred
async def test_bytes_that_do_not_decode_are_escaped(peers: Any) -> None:
    assert (await greet(peers.stream(lambda connection: connection.sendall(b"h\xffi")))).text == "h\\xffi"


@pytest_twisted.ensureDeferred
async def test_a_greeting_as_long_as_the_limit_is_greeted_and_one_byte_more_is_not(peers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall(b"x" * 5000))
    assert len((await greet(target, limit=5000)).data) == 5000
    failed = await failure(target, limit=4999)
    assert (failed.errno, failed.phase) == (errno.EMSGSIZE, "greet")


@pytest_twisted.ensureDeferred
async def test_an_endless_greeting_ends_at_64_kib(peers: Any) -> None:
    def endless(connection: socket.socket) -> None:
        while not peers.over.is_set():
            connection.sendall(b"x" * 4096)

    failed = await failure(peers.stream(endless))
    assert (failed.errno, failed.strerror) == (errno.EMSGSIZE, "the greeting is longer than 65536 bytes")


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_is_111_at_connect(free_port: int) -> None:
    failed = await failure(f"127.0.0.1:{free_port}")
    assert (failed.errno, failed.phase) == (errno.ECONNREFUSED, "connect")
    assert str(failed) == "connect: Connection refused"
    assert failed.peer == Address("127.0.0.1", free_port)


@pytest_twisted.ensureDeferred
async def test_greet_ex_gives_the_errno_or_0(peers: Any, free_port: int) -> None:
    assert await greet_ex(f"tcp:127.0.0.1:{free_port}") == errno.ECONNREFUSED
    assert await greet_ex(peers.stream(hello), reactor=reactor) == 0


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_never_accepted_times_out_at_connect() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(place)
        failed = await failure(f"127.0.0.1:{place[1]}", timeout=0.2)
        for filler in fillers:
            filler.close()
    assert (failed.errno, failed.phase, failed.closed) == (errno.ETIMEDOUT, "connect", "timeout")
    assert "0.2 s" in str(failed)


@pytest_twisted.ensureDeferred
async def test_closed_without_a_greeting_is_enodata(peers: Any) -> None:
    failed = await failure(peers.stream(lambda _: None))
    assert (failed.errno, failed.phase, failed.closed) == (errno.ENODATA, "greet", "fin")


@pytest_twisted.ensureDeferred
async def test_reset_without_a_greeting_is_econnreset(peers: Any, reset: Callable[[socket.socket], None]) -> None:
    failed = await failure(peers.stream(reset))
    assert (failed.errno, failed.phase, failed.closed) == (errno.ECONNRESET, "greet", "reset")


@pytest_twisted.ensureDeferred
async def test_reset_after_the_greeting_is_greeted_and_reported(
    peers: Any, reset: Callable[[socket.socket], None]
) -> None:
    def rude(connection: socket.socket) -> None:
        hello(connection)
        peers.over.wait(0.05)
        reset(connection)

    greeting = await greet(peers.stream(rude))
    assert (greeting.data, greeting.closed) == (THANKS, "reset")


def a_byte_at_a_time(
    peers: Any, text: bytes, pause: float, sent: list[float] | None = None
) -> Callable[[socket.socket], None]:
    """Say it so; ``sent`` gets the time of each byte."""

    def says(connection: socket.socket) -> None:
        for byte in text:
            connection.sendall(bytes([byte]))
            if sent is not None:
                sent.append(time.monotonic())
            if peers.over.wait(pause):
                return

    return says


@pytest.mark.parametrize(
    ("text", "pause"),
    [(THANKS, 0.15), (b"a\nb\n" * 9, 0.15), (b"\n" * 9, 0.2)],
    ids=["a line", "lines", "line ends"],
)
@pytest_twisted.ensureDeferred
async def test_a_greeting_that_is_still_coming_is_cut_short(peers: Any, text: bytes, pause: float) -> None:
    """On a busy machine the server may pause for longer, so that it does not still say something: then once more."""
    for _ in range(5):
        sent: list[float] = []
        greeting = await greet(peers.stream(a_byte_at_a_time(peers, text, pause, sent)), timeout=0.7)
        if time.monotonic() - sent[-1] < 1.2 * pause and max(map(operator.sub, sent[1:], sent)) < 1.2 * pause:
            break
    assert text.startswith(greeting.data)
    assert (greeting.closed, greeting.ending_errno) == ("timeout", errno.ETIMEDOUT)
    count = len(greeting.data)
    assert greeting.cut_short == (
        f"cut short after {count} bytes and more was still coming: the server did not close in time"
    )


@pytest.mark.parametrize(
    ("whole", "encoding"),
    [
        ("Grüß", "utf-8"),
        ("謝謝", "utf-8"),
        ("hello 👋", "utf-8"),
        ("hello", "utf-16-le"),
        ("謝謝", "big5"),
        ("谢", "gb18030"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_greeting_that_ends_within_a_character_is_cut_short(peers: Any, whole: str, encoding: str) -> None:
    part = whole.encode(encoding)[:-1]
    greeting = await greet(peers.stream(lambda connection: connection.sendall(part)), encoding=encoding)
    count = f"{len(part)} byte{'s' * (len(part) > 1)}"
    assert greeting.cut_short == f"cut short after {count} within a character: the server closed"
    assert (greeting.data, greeting.closed, greeting.ending_errno) == (part, "fin", errno.EPROTO)
    (cause,) = likely_cause(greeting)
    assert "--encoding" in cause


@pytest.mark.parametrize(
    ("said", "encoding"),
    [(b"hello", "utf-8"), (b"\xff", "utf-8"), ("Grüß".encode(), "utf-8"), ("Grüße".encode("latin-1"), "utf-8")],
)
@pytest_twisted.ensureDeferred
async def test_a_greeting_without_a_line_end_is_whole_where_the_server_closes(
    peers: Any, said: bytes, encoding: str
) -> None:
    greeting = await greet(peers.stream(lambda connection: connection.sendall(said)), encoding=encoding)
    assert (greeting.data, greeting.cut_short, greeting.ending_errno) == (said, "", None)


@pytest.mark.parametrize(
    ("part", "encoding"),
    [(b"Thank you ", "utf-8"), (b"x", "utf-8"), ("Grüß Gott".encode("utf-16-le"), "utf-16-le"), (b"\n.", "latin-1")],
)
@pytest_twisted.ensureDeferred
async def test_a_reset_before_a_line_end_cuts_a_greeting_short(
    peers: Any, reset: Callable[[socket.socket], None], part: bytes, encoding: str
) -> None:
    def rude(connection: socket.socket) -> None:
        connection.sendall(part)
        peers.over.wait(0.05)
        reset(connection)

    greeting = await greet(peers.stream(rude), encoding=encoding)
    count = f"{len(part)} byte{'s' * (len(part) > 1)}"
    assert greeting.cut_short == (
        f"cut short after {count} without a line end: the connection was reset after the greeting"
    )
    assert (greeting.data, greeting.closed, greeting.ending_errno) == (part, "reset", errno.ECONNRESET)


@pytest_twisted.ensureDeferred
async def test_a_whole_line_is_whole_however_its_connection_ends(
    peers: Any, reset: Callable[[socket.socket], None]
) -> None:
    def rude(connection: socket.socket) -> None:
        connection.sendall("Grüß Gott\r\n".encode("utf-16-le"))
        peers.over.wait(0.05)
        reset(connection)

    def stays(connection: socket.socket) -> None:
        hello(connection)
        peers.hold(connection)

    for target, encoding in ((peers.stream(rude), "utf-16-le"), (peers.stream(stays), "utf-8")):
        assert (await greet(target, encoding=encoding, timeout=0.4)).cut_short == ""


@pytest_twisted.ensureDeferred
async def test_tls_that_ends_without_close_notify_cuts_short_what_has_no_line_end(peers: Any, papers: Any) -> None:
    def says(text: bytes) -> Callable[[socket.socket], None]:
        def abrupt(connection: Any) -> None:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)  # of the socket below: no close_notify

        return abrupt

    trusted = ClientTls(ca=papers.path("ca"))
    cut = await greet(peers.stream(says(b"Thank you "), tls=papers.server("good")), tls=trusted)
    assert cut.cut_short == "cut short after 10 bytes without a line end: TLS ended without close_notify"
    assert (cut.closed, cut.ending_errno) == ("fin", errno.EPROTO)
    whole = await greet(peers.stream(says(THANKS), tls=papers.server("good")), tls=trusted)
    assert (whole.cut_short, whole.ending_errno) == ("", None)
    assert whole.notes == ("TLS ended without close_notify: the greeting may be cut short",)


@pytest_twisted.ensureDeferred
async def test_silence_times_out_at_greet(peers: Any) -> None:
    failed = await failure(peers.stream(peers.hold), timeout=0.2)
    assert (failed.errno, failed.phase, failed.closed) == (errno.ETIMEDOUT, "greet", "timeout")


@pytest_twisted.ensureDeferred
async def test_a_greeting_that_is_not_ended_in_time_is_greeted_and_reported(peers: Any) -> None:
    def stays(connection: socket.socket) -> None:
        hello(connection)
        peers.hold(connection)

    greeting = await greet(peers.stream(stays), timeout=0.2)
    assert (greeting.data, greeting.closed) == (THANKS, "timeout")
    assert greeting.seconds.total >= 0.2


@pytest_twisted.ensureDeferred
async def test_cancelling_leaves_nothing_behind(peers: Any) -> None:
    probing: Deferred[Greeting] = Deferred.fromCoroutine(greet(peers.stream(peers.hold), timeout=30))
    waited: Deferred[None] = Deferred()
    reactor.callLater(0.1, waited.callback, None)
    await waited
    probing.cancel()
    with pytest.raises(CancelledError):
        await probing


@pytest_twisted.ensureDeferred
async def test_cancelling_while_connecting_leaves_nothing_behind(peers: Any) -> None:
    probing: Deferred[Greeting] = Deferred.fromCoroutine(greet(peers.stream(hello), timeout=30))
    probing.cancel()
    with pytest.raises(CancelledError):
        await probing


@pytest_twisted.ensureDeferred
async def test_the_steps_are_traced_as_they_happen(peers: Any) -> None:
    traced: list[str] = []
    target = peers.stream(hello)
    await greet(target, trace=traced.append)
    assert [line.partition(", from")[0] for line in traced] == [
        f"* connecting to 127.0.0.1 port {target.rpartition(':')[2]}",
        "* connected",
        "< Thank you for connecting (26 bytes)",
        "* closed by the server",
    ]
