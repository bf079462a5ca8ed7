"""Load runs against real peers: every transport, and failures during a run."""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from greetsvc import GreetFailed
from greetsvc.client.load import connections, datagrams, engine
from greetsvc.client.load import run as runs
from greetsvc.client.load.connections import GREETED, Connection, LoadResult, Streams, failed
from greetsvc.client.load.datagrams import Datagrams
from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.polling import ERROR, HANGUP, READ, WRITE, SelectorPoller, new_poller, short_sleep
from greetsvc.client.load.requests import Requests
from greetsvc.client.load.run import Run
from greetsvc.client.load.tls import TlsStreams, _Session
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.tls import ClientTls
from greetsvc.errors import ConfigError
from greetsvc.net.linux import error_queue
from tests.support.peers import until_read


def hello(connection: socket.socket) -> None:
    connection.sendall(b"hello\r\n")


def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
    sock.sendto(b"hello\r\n", sender)


def failures(run: Run) -> dict[tuple[str, str], int]:
    return {(failure.phase, failure.name): failure.count for failure in run.metrics.failures}


async def carried_out(
    target: str, duration: float = 0.3, concurrency: int | None = 4, **settings: Any
) -> LoadMetrics:
    run = await Run(target, duration=duration, concurrency=concurrency, **settings).go()
    metrics = run.metrics
    assert metrics.sent == metrics.greeted + metrics.lost
    assert metrics.sent == sum(second.sent for second in metrics.seconds)
    assert metrics.greeted == metrics.corrected.count == sum(second.greeted for second in metrics.seconds)
    assert metrics.lost == sum(metrics.lost_in.values())
    return metrics


@pytest.mark.parametrize("transport", ["tcp", "unix", "udp", "unixgram"])
@pytest_twisted.ensureDeferred
async def test_every_probe_is_greeted_over_streams_and_datagrams(transport: str, peers: Any, tmp_path: Path) -> None:
    path = tmp_path / "greet" if transport.startswith("unix") else None
    stream = transport in ("tcp", "unix")
    target = peers.stream(hello, path=path) if stream else peers.datagram(answer, path=path)
    metrics = await carried_out(target)
    assert metrics.lost == 0
    assert metrics.greeted > 4
    assert metrics.uncorrected is None
    assert metrics.elapsed >= 0.3


@pytest.mark.parametrize("rate", [None, 10, 1000])
@pytest_twisted.ensureDeferred
async def test_a_run_that_is_over_at_once_starts_its_first_probes_all_the_same(
    peers: Any, rate: float | None
) -> None:
    metrics = await carried_out(peers.stream(hello), 1e-9, 2, rate=rate)
    assert (metrics.greeted, metrics.sent) == ((2, 2) if rate is None else (1, 1))


@pytest_twisted.ensureDeferred
async def test_an_echo_is_not_a_greeting(peers: Any) -> None:
    def echo(sock: socket.socket, request: bytes, sender: Any) -> None:
        sock.sendto(request, sender)

    run = Run(peers.datagram(echo), duration=0.1, rate=100)
    await run.go()
    assert run.metrics.greeted == 0
    assert failures(run) == {("greet", "EPROTO"): run.metrics.sent}


@pytest_twisted.ensureDeferred
async def test_every_probe_is_greeted_over_tls(peers: Any, papers: Any) -> None:
    target = peers.stream(hello, tls=papers.server("good"))
    metrics = await carried_out(target, tls=ClientTls(ca=papers.path("ca")))
    assert metrics.lost == 0
    assert metrics.greeted > 3


@pytest_twisted.ensureDeferred
async def test_a_turn_that_ends_with_nothing_in_flight_starts_the_next_probes(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TURN", 1e-9)  # one batch of events in a turn
    metrics = await carried_out(peers.stream(hello), 0.5, 1)
    assert metrics.greeted > 20  # that the reactor's timer alone would bring: 10


@pytest_twisted.ensureDeferred
async def test_a_rate_is_kept_and_every_probe_has_its_intended_time(peers: Any) -> None:
    metrics = await carried_out(peers.datagram(answer), 0.5, None, rate=200)
    assert (metrics.sent, metrics.lost) == (100, 0)
    assert metrics.uncorrected is not None
    assert metrics.uncorrected.count == 100
    assert metrics.missed == 0


def stalling(begin: float, seconds: float) -> Callable[[socket.socket], None]:
    """Greets, but once, from ``begin`` seconds after the first on, nobody for so long."""
    first: list[float] = []

    def says(connection: socket.socket) -> None:
        first.append(time.monotonic())
        if first[0] > 0 and first[-1] - first[0] > begin:
            first[0] = float("inf")
            time.sleep(seconds)
        hello(connection)

    return says


@pytest_twisted.ensureDeferred
async def test_a_stall_of_a_second_shows_in_the_corrected_percentiles(peers: Any) -> None:
    metrics = await carried_out(peers.stream(stalling(0.3, 1.0)), 2.0, 2, rate=100)
    assert metrics.uncorrected is not None
    corrected, uncorrected = metrics.corrected, metrics.uncorrected
    # A second of 100 probes each was stalled or had to wait: a third to a half of all; only two saw it themselves.
    assert (corrected.percentile(75) or 0) > 0.3
    assert (corrected.percentile(90) or 0) > 0.6
    assert (uncorrected.percentile(90) or 0) < (corrected.percentile(90) or 0) / 3
    assert uncorrected.greatest > 0.9
    assert any("all 2 were in flight" in warning for warning in metrics.warnings(2))


@pytest_twisted.ensureDeferred
async def test_a_far_end_that_stalls_to_the_end_leaves_probes_that_never_started(peers: Any) -> None:
    metrics = await carried_out(peers.stream(stalling(0.1, 1.0)), 0.5, 1, rate=100, timeout=3)
    assert metrics.missed > 20
    assert any("never started" in warning for warning in metrics.warnings(1))


class Restarting:
    """A server that is gone for a while, and comes back on the same port."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self._address = self._listener.getsockname()
        self.target = f"127.0.0.1:{self._address[1]}"
        self._over = False
        self._thread = Thread(target=self._serve, args=(0.4, 0.7), daemon=True)
        self._thread.start()

    def _serve(self, stop: float, start: float) -> None:
        began = time.monotonic()
        self._greet(lambda: time.monotonic() - began > stop)
        self._listener.close()
        time.sleep(start - stop)
        self._listener = socket.create_server(self._address, backlog=500)
        self._greet(lambda: self._over)

    def _greet(self, until: Callable[[], bool]) -> None:
        self._listener.settimeout(0.05)
        while not until():
            with suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    hello(connection)

    def stop(self) -> None:
        self._over = True
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def restarting() -> Iterator[Restarting]:
    server = Restarting()
    yield server
    server.stop()


@pytest_twisted.ensureDeferred
async def test_a_restart_shows_what_was_lost_and_when(restarting: Restarting) -> None:
    told: list[tuple[int, SecondCounts, int]] = []
    run = Run(restarting.target, duration=1.5, rate=100)
    await run.go(lambda *second: told.append(second))
    metrics = run.metrics
    assert 0 < metrics.lost < metrics.sent == 150
    assert set(metrics.lost_in) == {0}
    assert set(failures(run)) <= {("connect", "ECONNREFUSED"), ("greet", "ECONNRESET")}
    assert [number for number, _, _ in told] == [1, 2]
    assert told[0][1].lost == metrics.lost
    assert told[1][1].greeted == metrics.greeted - told[0][1].greeted > 0


@pytest_twisted.ensureDeferred
async def test_a_closed_loop_does_not_hammer_a_port_that_refuses(free_port: int) -> None:
    for target, phase in ((f"127.0.0.1:{free_port}", "connect"), (f"udp:127.0.0.1:{free_port}", "greet")):
        metrics = await carried_out(target, 0.3, 2)
        assert metrics.greeted == 0
        assert 2 <= metrics.lost <= 16
        assert [(f.phase, f.name) for f in metrics.failures] == [(phase, "ECONNREFUSED")]


@pytest_twisted.ensureDeferred
async def test_every_way_to_fail_has_its_phase_and_errno(peers: Any, reset: Any, tmp_path: Path) -> None:
    def reset_after(connection: socket.socket) -> None:
        hello(connection)
        until_read(connection)
        reset(connection)

    def answers(data: bytes) -> Callable[..., None]:
        return lambda sock, _, sender: sock.sendto(data, sender)

    expected: list[tuple[str, tuple[str, str], bool]] = [
        (peers.stream(reset), ("greet", "ECONNRESET"), False),
        (peers.stream(reset_after), ("close", "ECONNRESET"), True),
        (peers.stream(lambda _: None), ("greet", "ENODATA"), False),
        (peers.stream(lambda connection: connection.sendall(b"x" * 100)), ("greet", "EMSGSIZE"), False),
        (f"unix:{tmp_path}/nobody", ("connect", "ENOENT"), False),
        (f"unixgram:{tmp_path}/nobody", ("connect", "ENOENT"), False),
        (peers.datagram(answers(b"")), ("greet", "ENODATA"), False),
        (peers.datagram(answers(b"x" * 100)), ("greet", "EMSGSIZE"), False),
    ]
    for target, failing, greeted in expected:
        run = await Run(target, duration=0.1, concurrency=1, limit=50).go()
        assert set(failures(run)) == {failing}, target
        assert bool(run.metrics.greeted) == greeted, target


@pytest.mark.parametrize("unix", [True, False])
@pytest_twisted.ensureDeferred
async def test_silence_over_unix_datagrams_may_be_that_of_another_network_namespace(
    unix: bool, peers: Any, tmp_path: Path
) -> None:
    target = peers.datagram(lambda *_: None, path=tmp_path / "s" if unix else None)
    run = await Run(target, duration=0.02, concurrency=1, timeout=0.05).go()
    (failure,) = run.metrics.failures
    assert failure.words.startswith("no answer in time")
    assert ("another network namespace" in failure.words) == unix


@pytest_twisted.ensureDeferred
async def test_silence_is_a_time_out_in_the_step_that_did_not_end(peers: Any, papers: Any) -> None:
    def hold_after(connection: socket.socket) -> None:
        hello(connection)
        peers.hold()

    bare = peers.stream(peers.hold)
    cases: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
        (bare, {}, ("greet", "ETIMEDOUT")),
        (f"tls:{peers.stream(peers.hold)}", {}, ("tls", "ETIMEDOUT")),
        (peers.stream(peers.hold, tls=papers.server("good")), {"tls": True}, ("greet", "ETIMEDOUT")),
        (peers.stream(hold_after), {}, ("close", "ETIMEDOUT")),
        (peers.stream(hold_after, tls=papers.server("good")), {"tls": True}, ("close", "ETIMEDOUT")),
        (peers.datagram(lambda *_: None), {}, ("greet", "ETIMEDOUT")),
    ]
    for target, settings, failing in cases:
        if settings:
            settings["tls"] = ClientTls(ca=papers.path("ca"))
        run = await Run(target, duration=0.05, concurrency=1, timeout=0.4, **settings).go()
        assert failures(run) == {failing: 1}, target


@pytest_twisted.ensureDeferred
async def test_no_connection_in_time_is_the_connect_step() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filler:
        host, port = full.getsockname()
        filler.connect((host, port))
        run = await Run(f"{host}:{port}", duration=0.1, concurrency=3, timeout=0.3).go()
        assert ("connect", "ETIMEDOUT") in failures(run)


@pytest_twisted.ensureDeferred
async def test_a_tls_handshake_that_fails_says_why(peers: Any, papers: Any, reset: Any) -> None:
    def long(connection: socket.socket) -> None:
        connection.sendall(b"x" * 100)

    ca = {"ca": papers.path("ca")}
    strict = papers.server("good", ask_client=True)
    strict.minimum_version = ssl.TLSVersion.TLSv1_3
    cases: list[tuple[str, tuple[str, str], str]] = [
        (
            peers.stream(hello, tls=papers.server("expired")),
            ("tls", "EPROTO"),
            "the server's certificate has expired",
        ),
        (peers.stream(hello, tls=strict), ("tls", "EPROTO"), "the server refused: certificate required"),
        (f"tls:{peers.stream(hello)}", ("tls", "EPROTO"), "the server does not speak TLS"),
        (f"tls:{peers.stream(lambda connection: connection.recv(4096))}", ("tls", "EPROTO"), "the server closed"),
        (f"tls:{peers.stream(reset)}", ("tls", "ECONNRESET"), "Connection reset by peer"),
        (peers.stream(lambda _: None, tls=papers.server("good")), ("greet", "ENODATA"), "the connection was closed"),
        (peers.stream(long, tls=papers.server("good")), ("greet", "EMSGSIZE"), "the greeting is too long"),
    ]
    for target, failing, words in cases:
        run = await Run(target, duration=0.05, concurrency=1, limit=50, tls=ClientTls(**ca)).go()
        assert set(failures(run)) == {failing}, target
        assert run.metrics.failures[0].words.startswith(words)


@pytest_twisted.ensureDeferred
async def test_tls_without_close_notify_is_greeted_and_a_refused_port_fails_at_connect(
    peers: Any, papers: Any, free_port: int
) -> None:
    def cut(connection: ssl.SSLSocket) -> None:
        hello(connection)
        connection.shutdown(socket.SHUT_RDWR)

    def polite(connection: ssl.SSLSocket) -> None:
        hello(connection)
        connection.unwrap()

    metrics = await carried_out(
        peers.stream(polite, tls=papers.server("good")), 0.1, 1, tls=ClientTls(ca=papers.path("ca"))
    )
    assert metrics.greeted > 0
    assert metrics.failures == []
    metrics = await carried_out(
        peers.stream(cut, tls=papers.server("good")), 0.1, 1, tls=ClientTls(ca=papers.path("ca"))
    )
    assert metrics.greeted > 0
    run = await Run(f"tls:127.0.0.1:{free_port}", duration=0.05, concurrency=1).go()
    assert set(failures(run)) == {("connect", "ECONNREFUSED")}


@pytest_twisted.ensureDeferred
async def test_a_greeting_in_pieces_and_longer_than_one_reading_is_one_greeting(peers: Any) -> None:
    def pieces(connection: socket.socket) -> None:
        connection.sendall(b"x" * 10000)
        time.sleep(0.02)
        connection.sendall(b"y")

    run = await Run(peers.stream(pieces), duration=0.1, concurrency=1, expect="^x{10000}y$").go()
    assert (run.metrics.lost, run.metrics.flawed) == (0, 0)
    assert run.metrics.greeted > 0


@pytest_twisted.ensureDeferred
async def test_a_greeting_that_is_slow_or_not_as_expected_is_flawed(peers: Any) -> None:
    target = peers.datagram(answer)
    metrics = await carried_out(target, 0.1, 1, expect="^hello$", warn=5.0)
    assert (metrics.lost, metrics.flawed) == (0, 0)
    metrics = await carried_out(target, 0.1, 1, expect="goodbye")
    assert metrics.flawed == metrics.greeted > 0
    metrics = await carried_out(target, 0.1, 1, warn=1e-9)
    assert metrics.flawed == metrics.greeted > 0


@pytest_twisted.ensureDeferred
async def test_a_late_answer_and_a_copy_are_not_counted(peers: Any) -> None:
    requests: list[bytes] = []

    def twice_or_late(sock: socket.socket, data: bytes, sender: Any) -> None:
        requests.append(data)
        if len(requests) == 3:
            time.sleep(0.35)
        answer(sock, data, sender)
        answer(sock, data, sender)

    metrics = await carried_out(peers.datagram(twice_or_late), 0.6, 1, timeout=0.2)
    assert metrics.lost >= 1
    assert metrics.greeted > 2
    assert 0 <= metrics.sent - len(requests) <= 2


@pytest_twisted.ensureDeferred
async def test_a_full_queue_of_a_unix_socket_is_retried(tmp_path: Path) -> None:
    path = str(tmp_path / "greet")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        run = await Run(f"unix:{path}", duration=0.1, concurrency=4, timeout=0.3).go()
    assert set(failures(run)) == {("connect", "ETIMEDOUT"), ("greet", "ETIMEDOUT")}
    assert run.metrics.sent == 4


@pytest_twisted.ensureDeferred
async def test_an_address_that_cannot_be_connected_to_fails_at_once(tmp_path: Path) -> None:
    for target in ("[fe80::1]:1", "tls:[fe80::1]:1"):
        run = await Run(target, duration=0.05, concurrency=1).go()
        assert set(failures(run)) == {("connect", "EINVAL")}


def test_a_spurious_event_changes_nothing() -> None:
    watched = new_poller()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        watched.register(ours.fileno(), READ)
        remote = SocketAddress(socket.AF_INET, ("127.0.0.1", 1))
        assert Streams(remote, 10, watched).ready(Connection(ours), READ) is None
        assert Datagrams(remote, Requests(0), 10, watched).ready(Connection(ours), READ) is None
        tls = ClientTls(insecure=True)
        connection = Connection(ours)
        connection.session = _Session(tls, "localhost")
        assert TlsStreams(remote, 10, watched, tls, "localhost").ready(connection, READ) is None
        assert theirs.recv(4096)[:1] == b"\x16"
    watched.close()


def test_tls_data_waits_until_the_socket_is_writable() -> None:
    watched = new_poller()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        watched.register(ours.fileno(), READ)
        tls = ClientTls(insecure=True)
        transport = TlsStreams(SocketAddress(socket.AF_INET, ("127.0.0.1", 1)), 10, watched, tls, "localhost")
        connection = Connection(ours)
        connection.session = _Session(tls, "localhost")
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 4096)
        assert transport.ready(connection, WRITE) is None
        assert watched.poll(0) == []
        connection.session.unsent = connection.session.unsent[:1]
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                theirs.recv(65536)
        assert watched.poll(0) == [(ours.fileno(), WRITE)]
        assert transport.ready(connection, WRITE) is None
        assert theirs.recv(10) == b"\x16"
        theirs.close()
        connection.session.unsent = b"x"
        assert transport.ready(connection, WRITE) is None
        assert (connection.session.unsent, connection.session.send_errno) == (b"", errno.EPIPE)
        assert transport.ready(connection, READ) == failed("tls", errno.ECONNRESET)
    watched.close()


def test_a_kept_socket_is_used_again_until_a_stray_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_MIN_KEPT", 2)
    watched = new_poller()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        transport = Datagrams(SocketAddress(socket.AF_INET, far.getsockname()), Requests(3), 10, watched, keep=2)

        def greeted() -> tuple[Connection, Any]:
            connection = transport.open()
            assert transport.start(connection) is None
            _, sender = far.recvfrom(10)
            far.sendto(b"hi", sender)
            assert transport.ready(connection, READ) is GREETED
            transport.release(connection, greeted=True)
            return connection, sender

        first, sender = greeted()
        second, _ = greeted()
        assert greeted()[0] is first, "two are kept, and the older one is used again"
        far.sendto(b"again", sender)
        assert watched.poll(1) == [(first.fd, READ)]
        transport.idle_ready(first.fd)
        assert (transport.strays.doubled, transport.strays.late) == (1, 0)
        assert first.sock.fileno() == -1
        third, _ = greeted()
        fourth, _ = greeted()
        assert third is not second
        assert second.sock.fileno() == -1
    with suppress(OSError):
        fourth.sock.send(b"into the void")
    transport.idle_ready(fourth.fd)
    assert fourth.sock.fileno() == -1
    transport.close()
    assert third.sock.fileno() == -1
    watched.close()


@pytest.mark.parametrize("copy_after", [0.01, 0.04, 0.15])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_comes_twice_counts_once(peers: Any, copy_after: float) -> None:
    metrics = await carried_out(peers.datagram(peers.later(0.03, 0.03 + copy_after)), 0.6, 4)
    assert metrics.lost == 0
    assert metrics.corrected.least > 0.025, "no copy was taken for an answer"
    assert metrics.strays.doubled > 4
    assert any("answers came twice" in warning for warning in metrics.warnings(4))


@pytest.mark.parametrize("delay", [0.25, 0.45])
@pytest_twisted.ensureDeferred
async def test_a_late_answer_counts_for_no_probe(peers: Any, delay: float) -> None:
    metrics = await carried_out(peers.datagram(peers.later(delay)), 0.7, 2, timeout=0.2)
    assert (metrics.greeted, metrics.sent) == (0, metrics.lost)
    assert metrics.strays.late > 0
    assert any("answers came after the time-out" in warning for warning in metrics.warnings(2))


@pytest_twisted.ensureDeferred
async def test_without_descriptors_to_spare_each_probe_has_a_new_socket(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "remaining", lambda: 4)
    metrics = await carried_out(peers.datagram(peers.later(0.03, 0.04)), 0.3, 4)
    assert metrics.corrected.least > 0.025


@pytest.mark.parametrize("part", [b"Thank you ", b"x", b"a line\nand a part"])
@pytest_twisted.ensureDeferred
async def test_greetings_that_are_cut_short_are_flawed(peers: Any, reset: Any, papers: Any, part: bytes) -> None:
    def reset_after(text: bytes) -> Callable[[socket.socket], None]:
        def says(connection: socket.socket) -> None:
            connection.sendall(text)
            until_read(connection)
            reset(connection)

        return says

    def without_close_notify(connection: Any) -> None:
        connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)

    cut = Run(peers.stream(reset_after(part)), duration=0.1, concurrency=1, expect="nothing like it")
    await cut.go()
    assert cut.metrics.flawed == cut.metrics.greeted > 0, "each is flawed once"
    assert [failure.words for failure in cut.metrics.failures] == [
        "cut short: the connection was reset after the greeting"
    ]
    whole = await carried_out(peers.stream(reset_after(b"hello\r\n")), 0.1, 1)
    assert (whole.flawed, whole.lost) == (0, 0)
    open_end = peers.stream(lambda connection: (connection.sendall(part), peers.over.wait(0.3)))
    held = await carried_out(open_end, 0.1, 1, timeout=0.1)
    assert held.flawed == held.greeted > 0
    secure = peers.stream(without_close_notify, tls=papers.server("good"))
    over_tls = await carried_out(secure, 0.1, 1, tls=ClientTls(ca=papers.path("ca")))
    assert over_tls.flawed == over_tls.greeted > 0


class Starved(Streams):
    """As on a host where every other connection finds no source port."""

    starts = 0

    def start(self, connection: Connection) -> LoadResult | None:
        self.starts += 1
        if self.starts % 2:
            return failed("connect", errno.EADDRNOTAVAIL)
        return super().start(connection)


@pytest_twisted.ensureDeferred
async def test_source_ports_that_run_out_are_named_as_the_clients_own_limit(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "Streams", Starved)
    metrics = await carried_out(peers.stream(hello))
    assert metrics.greeted > 0
    assert "no free source port" in metrics.warnings(4)[0]


@pytest_twisted.ensureDeferred
async def test_files_that_run_out_are_losses_of_the_client(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("greetsvc.client.load.connections.socket.SocketType", no_more)
    metrics = await carried_out(peers.datagram(answer), 0.1, 1)
    assert metrics.greeted == 0
    assert "could not open files" in metrics.warnings(1)[0]


@pytest_twisted.ensureDeferred
async def test_a_run_that_is_cancelled_keeps_its_metrics(peers: Any) -> None:
    run = Run(peers.stream(peers.hold), duration=30, concurrency=3)
    going = Deferred.fromCoroutine(run.go())
    await deferLater(reactor, 0.2, lambda: None)
    going.cancel()
    with pytest.raises(CancelledError):
        await going
    assert (run.metrics.sent, run.metrics.unfinished) == (0, 3)
    assert run.metrics.elapsed > 0.1


@pytest_twisted.ensureDeferred
async def test_an_exception_of_the_caller_ends_the_run(peers: Any) -> None:
    def stop(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Run(peers.datagram(answer), duration=5, concurrency=1).go(stop)


@pytest_twisted.ensureDeferred
async def test_the_metrics_add_up_however_the_run_ended(peers: Any) -> None:
    run = Run(peers.stream(hello), duration=5, concurrency=8)
    checked: list[bytes] = []

    def check(data: bytes, _: float) -> bool:
        checked.append(data)
        if len(checked) == 20:
            raise ZeroDivisionError
        return True

    run._check = check
    with pytest.raises(ZeroDivisionError):
        await run.go()
    metrics = run.metrics
    assert metrics.sent == metrics.greeted + metrics.lost
    assert metrics.unfinished > 0


@pytest_twisted.ensureDeferred
async def test_a_name_is_looked_up_once_and_one_that_is_not_there_fails_the_run(peers: Any) -> None:
    port = peers.stream(hello).rpartition(":")[2]
    assert (await carried_out(f"localhost:{port}", 0.1, 1, family=4)).greeted > 0
    with pytest.raises(GreetFailed) as caught:
        await Run("no-such-name.invalid", duration=1).go()
    assert caught.value.phase == "resolve"


@pytest_twisted.ensureDeferred
async def test_it_works_without_epoll_and_without_atomic_flags(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greetsvc.client.load.polling.sys.platform", "darwin")
    monkeypatch.setattr(connections, "_FLAGS", 0)
    for target in (peers.stream(hello), peers.datagram(answer)):
        metrics = await carried_out(target, 0.2, 3)
        assert metrics.greeted > 5
        assert metrics.lost == 0
    with pytest.raises(ConfigError, match="needs Linux"):
        await Run("unixgram:/tmp/greet", duration=1).go()


def test_the_poller_without_epoll_does_the_same() -> None:
    left, right = socket.socketpair()
    with left, right:
        watched = SelectorPoller()
        watched.register(left.fileno(), READ | HANGUP)
        assert watched.poll(0) == []
        watched.modify(left.fileno(), READ | WRITE)
        assert watched.poll(0) == [(left.fileno(), WRITE)]
        right.send(b"x")
        assert watched.poll(0) == [(left.fileno(), READ | WRITE)]
        watched.register(left.fileno(), READ)
        assert watched.poll(0) == [(left.fileno(), READ)]
        watched.close()


def test_a_descriptor_that_kqueue_reports_twice_is_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    with left, right:
        watched = SelectorPoller()
        watched.register(left.fileno(), READ | WRITE)
        key = watched._selector.get_key(left.fileno())
        twice = [(key, selectors.EVENT_READ), (key, selectors.EVENT_WRITE)]
        monkeypatch.setattr(watched._selector, "select", lambda _: twice)
        assert watched.poll(0) == [(left.fileno(), READ | WRITE)]
        watched.close()


def test_a_short_sleep_ends_when_something_is_ready_however_high_the_descriptor() -> None:
    class Great:
        polled = 0

        def fileno(self) -> int:
            return 5000

        def poll(self, timeout: float, maxevents: int) -> list[Any]:
            self.polled += 1
            return []

    great: Any = Great()
    short_sleep(great, 0.001)
    assert great.polled == 1


@pytest.mark.parametrize("high", [False, True])
def test_a_short_sleep_whose_time_has_passed_does_not_wait(high: bool) -> None:
    """It may pass between two readings of the clock, and a negative time-out is none for epoll."""
    poller = new_poller()
    watched: Any = poller
    if high:
        watched = SimpleNamespace(fileno=lambda: 5000, poll=poller.poll)
    short_sleep(watched, -0.001)
    poller.close()


@pytest.mark.skipif(not error_queue.AVAILABLE, reason="the error queue is Linux's")
def test_icmp_does_not_end_a_connection_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 1122 4.2.3.9: it is a hint. The queue is emptied, or epoll would report it for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        remote = SocketAddress(socket.AF_INET, listener.getsockname())
        poller = new_poller()
        transport = Streams(remote, 100, poller)
        queue = [error_queue.QueuedError(errno.EHOSTUNREACH, "192.0.2.1", 4, 3, 1)] * 2
        monkeypatch.setattr(error_queue, "read", lambda _: [queue.pop()] if queue else [])
        connection = transport.open()
        assert transport.start(connection) is None
        accepted, _ = listener.accept()
        with accepted:
            assert transport.ready(connection, ERROR) is None
            assert len(queue) == 1
            accepted.sendall(b"hello")
        poller.poll(5)
        while (result := transport.ready(connection, READ | HANGUP)) is None:
            poller.poll(1)
        assert result.greeted
        transport.release(connection, greeted=True)
        lost = transport.open()
        result = transport.ready(lost, ERROR)
        assert result is not None
        assert (result.phase, result.errno) == ("connect", errno.EHOSTUNREACH)
        assert "host unreachable (ICMP type 3 code 1), reported by 192.0.2.1, a router" in result.words
        transport.release(lost, greeted=False)
        poller.close()
