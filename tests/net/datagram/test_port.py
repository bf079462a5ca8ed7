"""The datagram port over real sockets: fair, bounded, and answering from the address the request was sent to."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater

from greetsvc.net.datagram.port import BATCH, DRAIN, DatagramPort
from greetsvc.net.sockets import UnixPath, datagram_socket, ipv6_works, unix_datagram_socket

reactor: Any = global_reactor
SO_RCVBUFFORCE = 33
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")


class Echo(DatagramProtocol):
    """Sends back what it receives, and remembers what the port says about it."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, Any]] = []
        self.asked: list[str | None] = []
        self.groups: list[bool] = []
        self.stopped = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        port: Any = self.transport
        self.heard.append((datagram, addr))
        self.asked.append(port.asked)
        self.groups.append(port.group)
        if not port.group:
            port.write(datagram, addr)

    def stopProtocol(self) -> None:
        self.stopped += 1


class Deaf(Echo):
    """Only remembers."""

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard.append((datagram, addr))


Listen = Callable[..., DatagramPort]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts ports, and stops them."""
    ports: list[DatagramPort] = []

    def start(protocol: DatagramProtocol, sock: socket.socket | None = None, **options: Any) -> DatagramPort:
        port = DatagramPort(sock or datagram_socket("127.0.0.1", 0), protocol, reactor, **options)
        ports.append(port)
        port.startListening()
        return port

    yield start
    for port in ports:
        port.stopListening()


def _number(port: DatagramPort) -> int:
    host = port.getHost()
    assert isinstance(host, IPv4Address | IPv6Address)
    return host.port


def _asks(port: DatagramPort, data: bytes, *to: str, family: int = socket.AF_INET, expect: bool = True) -> bytes:
    """The answer to a connected socket, which receives only from where it sent; empty if none is expected."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((*to, _number(port)))
        client.send(data)
        port.doRead()
        return client.recv(9000) if expect else b""


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2", "127.9.8.7"])
def test_on_a_wildcard_address_an_answer_leaves_from_the_address_the_request_was_sent_to(
    asked: str, listen: Listen
) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("", 0))
    assert _asks(port, b"x", asked) == b"x"
    assert echo.asked == [asked]
    assert echo.groups == [False]
    assert port.asked is None


@needs_ipv6
def test_a_dual_stack_port_answers_both_families_from_the_address_the_request_was_sent_to(listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("::", 0))
    assert _asks(port, b"six", "::1", family=socket.AF_INET6) == b"six"
    assert _asks(port, b"four", "127.0.0.2") == b"four"
    assert echo.asked == ["::1", "127.0.0.2"]
    assert echo.heard[1][1][0] == "::ffff:127.0.0.1"


@needs_ipv6
def test_an_ipv6_only_wildcard_answers_too(listen: Listen) -> None:
    port = listen(Echo(), datagram_socket("::", 0, v6only=True))
    assert _asks(port, b"six", "::1", family=socket.AF_INET6) == b"six"


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.2", socket.AF_INET), pytest.param("::1", socket.AF_INET6, marks=needs_ipv6)]
)
def test_a_port_on_one_address_answers_from_there(host: str, family: int, listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket(host, 0))
    assert _asks(port, b"x", host, family=family) == b"x"
    assert echo.asked == [None]


def test_a_request_to_a_broadcast_address_is_known_as_one(listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"all", ("127.255.255.255", _number(port)))
        port.doRead()
        client.sendto(b"one", ("127.0.0.1", _number(port)))
        port.doRead()
    assert echo.groups == [True, False]


@pytest.mark.parametrize(
    "host",
    [
        "127.255.255.255",
        pytest.param("::ffff:0.0.0.0", marks=needs_ipv6),
        pytest.param("::ffff:127.255.255.255", marks=needs_ipv6),
        pytest.param("::", marks=needs_ipv6),
    ],
)
def test_a_request_to_a_broadcast_address_is_known_as_one_on_any_address_that_receives_it(
    host: str, listen: Listen
) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket(host, 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"all", ("127.255.255.255", _number(port)))
        port.doRead()
    assert echo.groups == [True]
    assert echo.asked == ["127.255.255.255"]


@needs_ipv6
def test_a_mapped_wildcard_answers_from_the_address_the_request_was_sent_to(listen: Listen) -> None:
    port = listen(Echo(), datagram_socket("::ffff:0.0.0.0", 0))
    assert _asks(port, b"four", "127.0.0.2") == b"four"


def _multicast_to(port: Any) -> None:
    """Have the port join a multicast group, and read a datagram that is sent to the group."""
    group = socket.inet_aton("239.255.1.2") + socket.inet_aton("127.0.0.1")
    port._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        client.sendto(b"all", ("239.255.1.2", _number(port)))
    port.doRead()


def test_a_port_on_a_multicast_address_knows_a_request_to_it_as_one(listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("239.255.1.2", 0))
    _multicast_to(port)
    assert echo.groups == [True]


def test_a_request_to_a_multicast_address_is_known_as_one(listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("", 0))
    _multicast_to(port)
    assert echo.groups == [True]
    assert echo.asked == ["239.255.1.2"]


@needs_ipv6
def test_a_request_to_an_ipv6_multicast_address_is_known_as_one(listen: Listen) -> None:
    echo = Echo()
    port = listen(echo, datagram_socket("::", 0))
    loopback = socket.if_nametoindex("lo")
    member = socket.inet_pton(socket.AF_INET6, "ff01::1234") + loopback.to_bytes(4, "little")
    port._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, loopback)
        try:
            client.sendto(b"all", ("ff01::1234", _number(port), 0, loopback))
        except OSError as error:
            pytest.skip(f"loopback takes no IPv6 multicast here: {error}")
    port.doRead()
    assert echo.groups == [True]


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_one_turn_reads_at_most_64_datagrams_whatever_their_size(host: str, listen: Listen) -> None:
    deaf = Deaf()
    sock = datagram_socket(host, 0)
    if os.getuid() == 0:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    port = listen(deaf, sock)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", _number(port)))
        for _ in range(2000):
            client.send(b"")
    expected = 2000 if os.getuid() == 0 else 200
    for turn in range(1, 2000 // BATCH + 2):
        port.doRead()
        assert len(deaf.heard) <= turn * BATCH
        if turn == 1:
            assert len(deaf.heard) == BATCH == 64
    assert len(deaf.heard) >= expected


@pytest_twisted.ensureDeferred
async def test_timers_run_during_a_flood(listen: Listen) -> None:
    deaf = Deaf()
    port = listen(deaf)
    seen: list[int] = []
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", _number(port)))
        for _ in range(200):
            client.send(b"")
        for _ in range(10):
            await deferLater(reactor, 0, lambda: None)
            seen.append(len(deaf.heard))
    assert seen[-1] == 200
    assert all(after - before <= BATCH for before, after in zip([0, *seen], seen, strict=False))


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_a_datagram_that_is_too_long_is_dropped_and_reported(host: str, listen: Listen) -> None:
    echo = Echo()
    dropped: list[str] = []
    port = listen(echo, datagram_socket(host, 0), longest=100, dropped=dropped.append)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", _number(port)))
        for size in (101, 100, 60_000, 0):
            client.send(b"x" * size)
    port.doRead()
    assert [len(data) for data, _ in echo.heard] == [100, 0]
    assert dropped == ["oversize"] * 2


class Troubled(socket.socket):
    """A socket that reports errors of earlier answers, as the kernel does after ICMP messages."""

    errors: tuple[int, ...] = ()

    def _trouble(self) -> None:
        if self.errors:
            first, *rest = self.errors
            self.errors = tuple(rest)
            raise OSError(first, os.strerror(first))

    def recvfrom(self, *arguments: Any) -> Any:
        self._trouble()
        return super().recvfrom(*arguments)

    def recvmsg(self, *arguments: Any) -> Any:
        self._trouble()
        return super().recvmsg(*arguments)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_errors_of_earlier_answers_are_reported_and_reading_goes_on(host: str, listen: Listen) -> None:
    sock = Troubled(type=socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    dropped: list[str] = []
    port = listen(Echo(), sock, dropped=dropped.append)
    sock.errors = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ECONNREFUSED)
    assert _asks(port, b"x", "127.0.0.1") == b"x"
    assert dropped == ["receive-ECONNREFUSED", "receive-EHOSTUNREACH", "receive-ECONNREFUSED"]


def test_a_drop_callback_that_raises_is_logged_and_reading_goes_on(listen: Listen, logged_errors: Any) -> None:
    def fails(_reason: str) -> None:
        raise ZeroDivisionError

    port = listen(Echo(), longest=10, dropped=fails)
    assert _asks(port, b"x" * 11, "127.0.0.1", expect=False) == b""
    assert _asks(port, b"x", "127.0.0.1") == b"x"
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def test_a_port_without_a_drop_callback_drops_too(listen: Listen) -> None:
    port = listen(Echo(), longest=10)
    assert _asks(port, b"x" * 11, "127.0.0.1", expect=False) == b""
    assert _asks(port, b"x", "127.0.0.1") == b"x"


def test_a_peer_that_is_gone_when_it_is_answered_does_not_stop_the_port(listen: Listen) -> None:
    port = listen(Echo(), datagram_socket("", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"bye", ("127.0.0.1", _number(port)))
    port.doRead()
    port.doRead()
    assert _asks(port, b"x", "127.0.0.1") == b"x"


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_an_error_of_the_protocol_is_logged_and_the_next_datagram_read(
    host: str, listen: Listen, logged_errors: Any
) -> None:
    class Failing(Echo):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            if datagram == b"bad":
                raise RuntimeError("bad")
            super().datagramReceived(datagram, addr)

    port = listen(Failing(), datagram_socket(host, 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"bad", ("127.0.0.1", _number(port)))
        port.doRead()
    assert _asks(port, b"good", "127.0.0.1") == b"good"
    assert len(logged_errors.flush(RuntimeError)) == 1


def test_an_answer_that_cannot_be_sent_raises_to_the_protocol(listen: Listen) -> None:
    for host in ("", "127.0.0.1"):
        port = listen(Echo(), datagram_socket(host, 0))
        with pytest.raises(OSError, match="Message too long"):
            port.write(b"x" * 70_000, ("127.0.0.1", 9))
        with pytest.raises(OSError, match="Invalid argument"):
            port.write(b"x", ("127.0.0.1", 0))


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_a_protocol_may_stop_the_port_while_it_reads(host: str, listen: Listen) -> None:
    class Stops(Echo):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            super().datagramReceived(datagram, addr)
            port.stopListening()

    stops = Stops()
    port = listen(stops, datagram_socket(host, 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        for _ in range(3):
            client.sendto(b"x", ("127.0.0.1", _number(port)))
    port.doRead()
    assert len(stops.heard) == 1
    assert stops.stopped == 1
    assert port.fileno() == -1


def test_drain_reads_what_has_arrived_up_to_a_bound(listen: Listen) -> None:
    deaf = Deaf()
    sock = datagram_socket("127.0.0.1", 0)
    if os.getuid() == 0:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    port = listen(deaf, sock)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", _number(port)))
        for _ in range(BATCH * DRAIN + 10):
            client.send(b"")
    port.drain()
    assert 200 <= len(deaf.heard) <= BATCH * DRAIN
    port.stopListening()
    port.drain()


def test_a_unix_port_answers_and_removes_its_file(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "x"
    echo = Echo()
    port = listen(echo, unix_datagram_socket(str(path)), path=UnixPath(str(path)))
    assert port.getHost() == UNIXAddress(bytes(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.bind("")
        client.settimeout(5)
        client.sendto(b"x", str(path))
        port.doRead()
        assert client.recv(10) == b"x"
    port.stopListening()
    assert not path.exists()
    port.stopListening()
    assert echo.stopped == 1


def test_a_socket_file_that_cannot_be_removed_is_logged_and_the_port_stops(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    path = tmp_path / "x"
    port = listen(Deaf(), unix_datagram_socket(str(path)), path=UnixPath(str(path)))

    def forbidden(_path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", forbidden)
    port.stopListening()
    assert log_lines[-1] == f"{path} is left behind: Operation not permitted"
    assert port.fileno() == -1


@pytest_twisted.ensureDeferred
async def test_a_port_reads_once_it_is_started() -> None:
    deaf = Deaf()
    port = DatagramPort(datagram_socket("127.0.0.1", 0), deaf, reactor)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", _number(port)))
        client.send(b"1")
        await deferLater(reactor, 0, lambda: None)
        assert not deaf.heard
        assert deaf.transport is None
        port.startListening()
        port.startListening()
        for _ in range(3):
            await deferLater(reactor, 0, lambda: None)
        assert [data for data, _ in deaf.heard] == [b"1"]
    port.connectionLost(None)  # type: ignore[arg-type]
    assert port.fileno() == -1
    assert port not in reactor.getReaders()
    assert deaf.stopped == 1


def test_a_port_that_was_never_started_closes_its_socket_and_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    deaf = Deaf()
    port = DatagramPort(unix_datagram_socket(str(path)), deaf, reactor, path=UnixPath(str(path)))
    port.stopListening()
    assert not path.exists()
    assert port.fileno() == -1
    assert deaf.stopped == 0
    with pytest.raises(ValueError, match="negative"):
        port.startListening()
    assert deaf.transport is None


def test_a_port_names_its_protocol_in_the_log(listen: Listen) -> None:
    assert listen(Echo()).logPrefix() == "Echo (datagram)"


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), pytest.param("::1", socket.AF_INET6, marks=needs_ipv6)]
)
def test_the_header_fields_of_a_datagram_are_read_on_demand(host: str, family: int, listen: Listen) -> None:
    arrivals: list[Any] = []

    class Looks(Echo):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            arrivals.append(port.arrival)
            super().datagramReceived(datagram, addr)

    port = listen(Looks(), datagram_socket(host, 0), headers=True)
    before = time.time_ns()
    assert _asks(port, b"x", host, family=family) == b"x"
    assert (arrivals[0].ttl, arrivals[0].dscp, arrivals[0].ecn) == (64, 0, 0)
    assert before <= arrivals[0].time <= time.time_ns()


def test_stopping_gives_a_deferred_that_has_fired(listen: Listen) -> None:
    stopped = listen(Deaf()).stopListening()
    assert isinstance(stopped, Deferred)
    assert stopped.called
