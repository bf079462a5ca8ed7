from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
from attrs import define
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from greetsvc.net.linger.sweep import AGES, SWEEP, Lingerers
from greetsvc.net.linger.watched import MAX_DISCARDED


class Ticking(Clock):
    """A reactor whose time the test moves, and whose readers it can call."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None: ...
    def removeWriter(self, writer: Any) -> None: ...
    def removeAll(self) -> list[Any]:
        return []

    def getReaders(self) -> list[Any]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return []

    def sweep(self) -> None:
        """Let every socket that is new be looked at for the last time."""
        self.pump([SWEEP] * (AGES[-1] + 1))

    def read(self) -> None:
        """Let everything that can be read be read, once."""
        for reader in list(self.readers):
            if select.select([reader], [], [], 0)[0]:
                reader.doRead()


@define
class Pair:
    """A lingering socket, the client at the other end, and how often the socket was said to be closed."""

    client: socket.socket
    closed: int = 0

    def arrived(self, server: socket.socket) -> None:
        assert select.select([server], [], [], 5)[0]

    def ending(self) -> str:
        """How the connection ends for the client."""
        self.client.settimeout(5)
        try:
            while self.client.recv(65536):
                pass
            self.client.send(b"?")
            assert select.select([self.client], [], [], 5)[0]
            self.client.send(b"?")
        except ConnectionResetError:
            return "reset"
        except BrokenPipeError:
            return "closed"
        return "open"


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture(params=["tcp", "unix"])
def linger(request: pytest.FixtureRequest, clock: Ticking) -> Iterator[Callable[..., tuple[Lingerers, list[Pair]]]]:
    """Makes `Lingerers` that took over sockets which have greeted and sent their FIN."""
    made: list[tuple[Lingerers, list[Pair]]] = []

    def make(sockets: int = 1, sending: bytes = b"", **options: Any) -> tuple[Lingerers, list[Pair]]:
        lingerers = Lingerers(cast("Any", clock), **{"lifetime": 10.0, "max_sockets": 1000, **options})
        pairs = []
        for _ in range(sockets):
            server, client = _connected(request.param)
            client.setblocking(False)
            if sending:
                client.send(sending)
                assert select.select([server], [], [], 5)[0]
            server.sendall(b"hello")
            server.shutdown(socket.SHUT_WR)
            pair = Pair(client)
            pairs.append(pair)
            lingerers.add(server, partial(_count, pair))
        made.append((lingerers, pairs))
        return lingerers, pairs

    yield make
    for lingerers, pairs in made:
        lingerers.stop()
        for pair in pairs:
            pair.client.close()
            assert pair.closed == 1
    assert not clock.getDelayedCalls()
    assert not clock.readers


def _count(pair: Pair) -> None:
    pair.closed += 1


def _connected(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


def test_a_peer_that_has_closed_costs_one_look(clock: Ticking, linger: Any) -> None:
    lingerers, pairs = linger(3)
    for pair in pairs:
        pair.client.close()
    clock.advance(SWEEP)
    assert lingerers.count == 3
    clock.advance(SWEEP)
    assert (lingerers.count, [pair.closed for pair in pairs]) == (0, [1, 1, 1])
    assert not clock.getDelayedCalls()


class Counted(socket.socket):
    """A socket that counts how often it was looked at."""

    looks = 0

    def recv_into(self, *arguments: Any) -> int:
        self.looks += 1
        return super().recv_into(*arguments)


def counted(number: int) -> tuple[list[Counted], list[socket.socket]]:
    pairs = [_connected("tcp") for _ in range(number)]
    return [Counted(fileno=server.detach()) for server, _ in pairs], [client for _, client in pairs]


def test_a_peer_that_stays_is_looked_at_at_growing_ages_and_then_watched(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    (server,), (client,) = counted(1)
    lingerers.add(server)
    seen = []
    for _ in range(AGES[-1] + 4):
        clock.advance(SWEEP)
        seen.append(server.looks)
    assert [seen.index(look) for look in range(1, 7)] == [1, 4, 16, 32, 64, 128]
    assert seen[-1] == 6
    client.close()
    clock.read()
    assert (server.looks, lingerers.count) == (7, 0)
    lingerers.stop()


def test_of_many_sockets_that_stay_a_sample_is_looked_at(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    servers, clients = counted(60)
    for server in servers:
        lingerers.add(server)
    clock.pump([SWEEP] * 2)
    assert sum(server.looks for server in servers) < 20
    for client in clients:
        client.close()
    clock.pump([SWEEP] * 3)
    assert lingerers.count == 0
    lingerers.stop()


def test_a_single_socket_that_stays_wakes_the_reactor_once_for_each_look(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    (server,), (client,) = counted(1)
    lingerers.add(server)
    wakes = 0
    while server.looks != len(AGES):
        (call,) = clock.getDelayedCalls()
        clock.advance(call.getTime() - clock.seconds())
        wakes += 1
    assert wakes == 1 + len(AGES)
    lingerers.stop()
    client.close()


def test_a_new_socket_is_looked_at_soon_while_an_old_one_waits(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    (old, new), clients = counted(2)
    lingerers.add(old)
    clock.pump([SWEEP] * (AGES[2] + 2))
    lingerers.add(new)
    clock.pump([SWEEP] * 2)
    assert (old.looks, new.looks) == (3, 1)
    lingerers.stop()
    for client in clients:
        client.close()


def test_overdue_looks_happen_in_one_sweep(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    servers, clients = counted(20)
    for server in servers:
        lingerers.add(server)
        clock.advance(SWEEP)
    clock.advance(1.0)
    assert all(server.looks for server in servers)
    assert all(call.getTime() > clock.seconds() for call in clock.getDelayedCalls())
    lingerers.stop()
    for client in clients:
        client.close()


def test_a_lifetime_shorter_than_the_last_age_holds(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=0.1, max_sockets=1000)
    (server,), (client,) = counted(1)
    lingerers.add(server)
    clock.pump([0.001] * 140)
    assert (server.fileno(), lingerers.count) == (-1, 0)
    lingerers.stop()
    client.close()


def test_a_socket_that_cannot_be_watched_is_closed_and_its_callback_called(
    clock: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_reader: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clock, "addReader", refuse)
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    servers, clients = counted(3)
    told: list[int] = []
    for number, server in enumerate(servers):
        lingerers.add(server, partial(told.append, number))
    clock.sweep()
    assert (told, lingerers.count) == ([0, 1, 2], 0)
    lingerers.stop()
    for client in clients:
        client.close()


def test_a_close_callback_that_stops_everything_during_a_sweep_leaves_nothing_open(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    servers, clients = counted(3)
    clients[0].close()
    for server in servers:
        lingerers.add(server, lingerers.stop)
    clock.pump([SWEEP] * 2)
    assert ([server.fileno() for server in servers], lingerers.count) == ([-1] * 3, 0)
    assert not clock.getDelayedCalls()
    for client in clients:
        client.close()


def test_a_peer_that_stays_is_watched(clock: Ticking, linger: Any) -> None:
    lingerers, (pair,) = linger()
    clock.sweep()
    assert (lingerers.count, len(clock.readers), pair.closed) == (1, 1, 0)
    assert pair.client.recv(100) == b"hello"
    pair.client.close()
    clock.read()
    assert (lingerers.count, len(clock.readers), pair.closed) == (0, 0, 1)


def test_silent_sockets_are_not_looked_at_again(clock: Ticking, linger: Any) -> None:
    linger(50, silence=2.0)
    clock.sweep()
    assert len(clock.getDelayedCalls()) == 2  # one for silence, one for lifetime, however many sockets


@pytest.mark.parametrize("silence", [0.1, 0.32, 0.64, 0.7, 2.0])
def test_a_silent_peer_is_closed_after_the_silence(clock: Ticking, linger: Any, silence: float) -> None:
    lingerers, (pair,) = linger(silence=silence)
    clock.pump([0.001] * (round(silence * 1000) - 1))
    assert pair.closed == 0
    clock.pump([0.001] * 40)
    assert (pair.closed, lingerers.count, clock.readers) == (1, 0, [])
    assert pair.client.recv(100) == b"hello"


def test_a_peer_that_sends_restarts_the_silence_but_not_the_lifetime(clock: Ticking, linger: Any) -> None:
    _, (pair,) = linger(silence=2.0, lifetime=5.0)
    clock.sweep()
    for _ in range(4):
        pair.client.send(b"more")
        pair.arrived(clock.readers[0])
        clock.read()
        clock.advance(1.0)
    assert pair.closed == 0
    clock.advance(0.4)
    assert pair.closed == 1


@pytest.mark.parametrize("lifetime", [0.1, 0.65, 1.0, 5.0])
@pytest.mark.parametrize("sending", [b"", b"early"])
def test_a_peer_that_keeps_sending_has_the_whole_lifetime(
    clock: Ticking, linger: Any, lifetime: float, sending: bytes
) -> None:
    _, (pair,) = linger(sending=sending, silence=2.0, lifetime=lifetime)
    if pair.client.family == socket.AF_INET:
        pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pump(seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            if pair.closed == 0:
                pair.client.send(b"more")
            clock.advance(0.01)
            clock.read()

    pump(lifetime - 0.02)
    assert pair.closed == 0
    pump(0.04)
    assert pair.closed == 1


def test_a_peer_that_sent_a_lot_before_reads_its_greeting_without_an_error(clock: Ticking, linger: Any) -> None:
    _, (pair,) = linger(sending=b"x" * 30_000)
    clock.sweep()
    assert len(clock.readers) == 1
    clock.read()
    assert pair.client.recv(100) == b"hello"
    assert pair.client.recv(100) == b""
    pair.client.close()
    clock.read()
    assert pair.closed == 1


def _pour(clock: Ticking, pair: Pair, most: int) -> int:
    """Send until the socket is closed, or ``most`` bytes are sent."""
    block, sent = bytes(65536), 0
    while sent < most and not pair.closed:
        try:
            sent += pair.client.send(block)
        except BlockingIOError:
            clock.read()
        except OSError:
            break
    return sent


def test_16_mib_are_discarded_and_then_the_peer_is_reset(clock: Ticking, linger: Any) -> None:
    _, (pair,) = linger()
    clock.sweep()
    assert _pour(clock, pair, MAX_DISCARDED - 65536) < MAX_DISCARDED
    assert pair.closed == 0
    sent = _pour(clock, pair, 2 * MAX_DISCARDED)
    clock.read()
    assert pair.closed == 1
    assert sent < MAX_DISCARDED
    assert pair.ending() in {"reset", "closed"}


def test_a_flood_is_read_in_bounded_pieces(clock: Ticking, linger: Any) -> None:
    lingerers, (pair,) = linger()
    clock.sweep()
    (reader,) = clock.readers
    while True:
        try:
            pair.client.send(bytes(65536))
        except BlockingIOError:
            break
    reader.doRead()
    assert 0 < reader.discarded <= 256 * 1024
    lingerers.stop()


def test_beyond_the_maximum_the_oldest_socket_is_closed(clock: Ticking, linger: Any) -> None:
    lingerers, pairs = linger(5, max_sockets=3)
    assert [pair.closed for pair in pairs] == [1, 1, 0, 0, 0]
    clock.sweep()
    assert lingerers.count == 3
    server, client = _connected("tcp")
    lingerers.add(server)
    assert [pair.closed for pair in pairs] == [1, 1, 1, 0, 0]
    assert lingerers.count == 3
    client.close()


def test_a_socket_whose_peer_has_reset_is_closed(clock: Ticking, linger: Any) -> None:
    _, (early, late) = linger(2)
    _reset(early.client)
    clock.sweep()
    _reset(late.client)
    clock.read()
    assert (early.closed, late.closed) == (1, 1)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def test_a_socket_that_the_reactor_finds_broken_is_closed(clock: Ticking, linger: Any) -> None:
    lingerers, (pair,) = linger()
    clock.sweep()
    (reader,) = clock.readers
    assert reader.logPrefix() == "lingering socket"
    reader.connectionLost(Failure(ConnectionLost()))
    reader.connectionLost(Failure(ConnectionLost()))
    assert (pair.closed, lingerers.count) == (1, 0)


def test_after_stop_sockets_are_closed_as_they_are_added(clock: Ticking, linger: Any) -> None:
    lingerers, pairs = linger(2)
    clock.advance(SWEEP)
    server, client = _connected("tcp")
    lingerers.add(server)
    lingerers.stop()
    assert server.fileno() == -1
    server, other = _connected("tcp")
    lingerers.add(server)
    assert server.fileno() == -1
    assert (lingerers.count, [pair.closed for pair in pairs]) == (0, [1, 1])
    client.close()
    other.close()


def test_a_close_callback_that_raises_does_not_keep_other_sockets_open(
    clock: Ticking, linger: Any, logged_errors: Any
) -> None:
    lingerers, pairs = linger(2)
    server, client = _connected("tcp")
    lingerers.add(server, lambda: 1 / 0)
    for each in (client, *(pair.client for pair in pairs)):
        each.close()
    clock.sweep()
    assert (lingerers.count, server.fileno()) == (0, -1)
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_a_reactor_that_stops_closes_every_watched_socket(clock: Ticking) -> None:
    lingerers = Lingerers(cast("Any", clock), lifetime=10.0, max_sockets=1000)
    server, client = _connected("tcp")
    lingerers.add(server)
    assert not clock.readers
    clock.sweep()
    (watched,) = clock.readers
    assert watched.logPrefix() == "lingering socket"
    watched.connectionLost(Failure(ConnectionLost()))
    assert (server.fileno(), clock.readers, lingerers.count) == (-1, [], 0)
    client.close()
    lingerers.stop()


def test_a_watched_socket_with_nothing_to_read_stays(clock: Ticking, linger: Any) -> None:
    lingerers, (pair,) = linger()
    clock.sweep()
    clock.readers[0].doRead()
    assert (pair.closed, lingerers.count) == (0, 1)
