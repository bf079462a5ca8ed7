"""The whole service in this process, from settings to sockets, with blocking clients in threads."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import ssl
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from greetsvc import wire
from greetsvc.daemon import defaults
from greetsvc.daemon import service as service_module
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.signals import taking_stop_signals
from greetsvc.errors import ConfigError
from greetsvc.net.sockets import ipv6_works
from greetsvc.visit import Address
from tests.support.certificates import issue
from tests.support.waiting import until

reactor: Any = global_reactor
HELLO = b"Thank you for connecting\r\n"
MARKED = wire.request("0123456789abcdef", 1200)
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")


@define
class Services:
    """Starts services, and stops what is left of them."""

    running: list[GreetingService] = field(factory=list)

    def bound(self, *listen: str, reactor: Any = None, **options: object) -> GreetingService:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        service = GreetingService(settings(given, listen), reactor)
        service.bind()
        self.running.append(service)
        return service

    def started(self, *listen: str, reactor: Any = None, **options: object) -> GreetingService:
        service = self.bound(*listen, reactor=reactor, **options)
        service.startService()
        return service

    async def stop(self) -> None:
        while self.running:
            await self.running.pop().stopService()


@pytest_twisted.async_yield_fixture
async def services() -> Any:
    """Services that are stopped at the end of the test."""
    found = Services()
    yield found
    for service in found.running:
        object.__setattr__(service.settings, "drain", 0.0)
    await found.stop()


async def _thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await deferToThread(call, *arguments).addTimeout(10, reactor)


async def _within(seconds: float, waited: Deferred[Any]) -> Any:
    return await waited.addTimeout(seconds, reactor)


def _where(service: GreetingService, which: int = 0) -> Any:
    """The address of a listener, as the socket module has it."""
    one: Any = service._listening[which]
    endpoint = one.listener.endpoint
    if endpoint.path is not None:
        return endpoint.path
    port = one.spots()[0].port
    return ((endpoint.host or "127.0.0.1").replace("::", "::1").replace("::11", "::1"), port)


def _told(endpoint: str, where: Any) -> str:
    """What the log says of the listener."""
    transport = endpoint.partition(":")[0].replace("tcp6", "tcp")
    if isinstance(where, str):
        return f"path: {where} ({transport})"
    host, port = where
    return f"port: {port} ({transport}, {f'[{host}]' if ':' in host else host})"


def _tutorial_client(family: int, address: Any) -> bytes:
    """Connects, reads to the end, closes."""
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        said = b""
        while piece := client.recv(4096):
            said += piece
        return said


def _client_with_connect_ex(address: Any) -> tuple[int, bytes]:
    with socket.socket() as client:
        client.settimeout(5)
        code = client.connect_ex(address)
        return code, b"" if code else client.recv(4096)


def _requests(family: int, address: Any, request: bytes = b"x", own: Any = None, patience: float = 5) -> bytes | None:
    """The answer to one request over a connected socket; None where there is none."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(patience)
        if family == socket.AF_UNIX or own is not None:
            client.bind(own or "")
        client.connect(address)
        client.send(request)
        try:
            return client.recv(9000)
        except TimeoutError:
            return None


STREAMS = [
    pytest.param("tcp:0:interface=127.0.0.1", socket.AF_INET, id="tcp"),
    pytest.param(r"tcp6:0:interface=\:\:1", socket.AF_INET6, id="tcp6", marks=needs_ipv6),
    pytest.param("unix:{dir}/greet.sock", socket.AF_UNIX, id="unix"),
]
DATAGRAMS = [
    pytest.param("udp:0:interface=127.0.0.1", socket.AF_INET, id="udp"),
    pytest.param(r"udp:0:interface=\:\:1", socket.AF_INET6, id="udp6", marks=needs_ipv6),
    pytest.param("unixgram:{dir}/greet.sock", socket.AF_UNIX, id="unixgram"),
]


@pytest.mark.parametrize(("endpoint", "family"), STREAMS)
@pytest_twisted.ensureDeferred
async def test_a_peer_that_connects_is_greeted_and_logged(
    endpoint: str, family: int, services: Services, tmp_path: Path, log_lines: list[str]
) -> None:
    service = services.started(endpoint.format(dir=tmp_path))
    visits_seen: list[Address] = []
    service.ledger.watchers.append(lambda _transport, peer: visits_seen.append(peer))
    assert await _thread(_tutorial_client, family, _where(service)) == HELLO
    assert await _thread(_tutorial_client, family, _where(service)) == HELLO
    where = _where(service)
    assert f"Server start at {_told(endpoint, where)}" in log_lines
    visits = [line for line in log_lines if line.startswith("Got a connection from ")]
    assert len(visits) == 2
    if family == socket.AF_UNIX:
        assert visits[0] == "Got a connection from an unnamed UNIX socket"
    else:
        host, port = visits_seen[0]
        assert visits[0] == f"Got a connection from ('{host}', {port})"
    await services.stop()
    assert service.admission.open == 0


@pytest.mark.parametrize(("endpoint", "family"), DATAGRAMS)
@pytest_twisted.ensureDeferred
async def test_a_peer_that_sends_a_datagram_is_greeted_and_logged(
    endpoint: str, family: int, services: Services, tmp_path: Path, log_lines: list[str]
) -> None:
    service = services.started(endpoint.format(dir=tmp_path))
    for request in (b"", b"x", MARKED):
        assert await _thread(_requests, family, _where(service), request) == HELLO
    assert service.ledger.visits == 3
    assert sum(line.startswith("Got a connection from ") for line in log_lines) == 3
    where = _where(service)
    assert f"Server start at {_told(endpoint, where)}" in log_lines
    await services.stop()


@pytest_twisted.ensureDeferred
async def test_connect_ex_returns_0_and_after_the_stop_111(services: Services) -> None:
    service = services.started("tcp:0:interface=127.0.0.1")
    where = _where(service)
    assert await _thread(_client_with_connect_ex, where) == (0, HELLO)
    await services.stop()
    assert await _thread(_client_with_connect_ex, where) == (errno.ECONNREFUSED, b"")


@needs_ipv6
@pytest_twisted.ensureDeferred
async def test_one_port_on_two_families_is_two_sockets_and_a_dual_stack_one_serves_both(
    services: Services,
) -> None:
    dual = services.started(r"tcp:0:interface=\:\:", r"udp:0:interface=\:\:")
    visits_seen: list[Address] = []
    dual.ledger.watchers.append(lambda _transport, peer: visits_seen.append(peer))
    for which, ask in ((0, _tutorial_client), (1, _requests)):
        port = _where(dual, which)[1]
        assert await _thread(ask, socket.AF_INET6, ("::1", port)) == HELLO
        assert await _thread(ask, socket.AF_INET, ("127.0.0.1", port)) == HELLO
    assert {peer.host for peer in visits_seen} == {"::1", "127.0.0.1"}
    pair = services.started(
        f"udp:{(free := _free_port())}", rf"udp:{free}:interface=\:\:", f"tcp:{free}", f"tcp6:{free}"
    )
    for ask in (_tutorial_client, _requests):
        assert await _thread(ask, socket.AF_INET6, ("::1", free)) == HELLO
        assert await _thread(ask, socket.AF_INET, ("127.0.0.1", free)) == HELLO
    assert pair.ledger.visits == 4


def _free_port() -> int:
    """A port that is free for TCP and UDP on every address."""
    family = socket.AF_INET6 if ipv6_works() else socket.AF_INET
    while True:
        with socket.socket(family) as stream, socket.socket(family, socket.SOCK_DGRAM) as datagram:
            stream.bind(("", 0))  # with IPv6 for both families: those that are in TIME-WAIT count too
            port: int = stream.getsockname()[1]
            try:
                datagram.bind(("", port))
            except OSError:
                continue
            return port


@pytest_twisted.ensureDeferred
async def test_without_listeners_the_defaults_are_served_and_ipv6_is_left_out_where_there_is_none(
    services: Services, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    port = _free_port()
    monkeypatch.setattr(defaults, "_ENDPOINTS", (f"tcp:{port}", f"udp:{port}"))
    six = (rf"tcp:{port}:interface=\:\:", rf"udp:{port}:interface=\:\:")
    monkeypatch.setattr(defaults, "_IPV6_ENDPOINTS", six)
    for works in {ipv6_works(), False}:
        monkeypatch.setattr(defaults, "ipv6_works", lambda works=works: works)
        log_lines.clear()
        service = services.started(greeting="Hi")
        assert await _thread(_tutorial_client, socket.AF_INET, ("127.0.0.1", port)) == b"Hi"
        told = [line.partition(f"Server start at port: {port} ")[2] for line in log_lines if "Server start" in line]
        assert told == ["(tcp, 0.0.0.0)", "(udp, 0.0.0.0)", "(tcp, [::])", "(udp, [::])"][: 4 if works else 2]
        assert ("IPv6 does not work on this machine: only IPv4 is served" in log_lines) is not works
        assert len(service.describe()) == (4 if works else 2)
        await services.stop()


@pytest_twisted.ensureDeferred
async def test_the_log_says_if_the_kernel_reduces_the_backlog(
    services: Services, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    said = "The backlog of listeners is 128: net.core.somaxconn allows no more"
    for found, expected in (((128, True), True), ((65535, False), False)):
        monkeypatch.setattr(service_module, "kernel_backlog", lambda found=found: found)
        log_lines.clear()
        services.started("udp:0:interface=127.0.0.1")
        assert (said in log_lines) is expected


@pytest_twisted.ensureDeferred
async def test_a_wildcard_socket_answers_from_the_address_that_the_request_was_sent_to(services: Services) -> None:
    service = services.started("udp:0", greeting="{local_host} {peer_host}")
    port = _where(service)[1]
    for host in ("127.0.0.1", "127.0.0.2"):
        assert await _thread(_requests, socket.AF_INET, (host, port)) == f"{host} 127.0.0.1".encode()


@pytest_twisted.ensureDeferred
async def test_our_own_ports_are_not_answered_whatever_their_address(services: Services) -> None:
    service = services.started("udp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1")
    for which in (0, 1):
        own = ("127.0.0.2", _where(service, which)[1])
        assert await _thread(_requests, socket.AF_INET, _where(service), MARKED, own, 0.2) is None
    assert service.ledger.refused == {"own-port": 2}


@pytest.mark.parametrize(("listen", "prepared"), [("tcp:0", False), ("udp:0", True)])
@pytest_twisted.ensureDeferred
async def test_the_tables_of_the_udp_rule_are_made_at_the_start_where_datagrams_are_served(
    services: Services, listen: str, prepared: bool
) -> None:
    service = services.started(listen)
    assert service.policy._is_prepared is prepared


@pytest_twisted.ensureDeferred
async def test_a_listener_measures_unless_it_is_told_not_to(services: Services) -> None:
    request = wire.request("0123456789abcdef", 1200, {"s": "fedcba9876543210", "n": 0, "a": 0, "w": "count"})
    tables = [{"endpoint": "udp:0:interface=127.0.0.1"}, {"endpoint": "udp:0", "measure": False}]
    service = GreetingService(settings({}, (), {"listen": tables}, "x.toml"))
    service.bind()
    services.running.append(service)
    service.startService()
    measured = await _thread(_requests, socket.AF_INET, _where(service), request)
    assert measured is not None
    found = wire.decode_measured(measured)
    assert found is not None
    assert (found.seen, found.seq, found.ttl, found.tos, found.size) == (1, 1, 64, 0, 1200)
    assert await _thread(_requests, socket.AF_INET, ("127.0.0.1", _where(service, 1)[1]), request) == HELLO


@pytest.mark.skipif(os.getuid() != 0, reason="only root may send from a port below 1024")
@pytest_twisted.ensureDeferred
async def test_a_port_below_1024_is_not_answered(services: Services) -> None:
    service = services.started("udp:0:interface=127.0.0.1")
    own = ("127.0.0.2", 1017)
    assert await _thread(_requests, socket.AF_INET, _where(service), MARKED, own, 0.2) is None
    assert service.ledger.refused == {"port": 1}


@pytest_twisted.ensureDeferred
async def test_a_request_to_a_broadcast_address_is_not_answered(services: Services) -> None:
    service = services.started("udp:0")

    def shouts() -> bytes | None:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.settimeout(0.2)
            client.sendto(MARKED, ("127.255.255.255", _where(service)[1]))
            try:
                return client.recv(100)
            except TimeoutError:
                return None

    assert await _thread(shouts) is None
    assert service.ledger.refused == {"group": 1}


@pytest_twisted.ensureDeferred
async def test_a_loop_between_two_services_ends(services: Services) -> None:
    one = services.started("udp:0:interface=127.0.0.1", greeting="one")
    other = services.started("udp:0:interface=127.0.0.1", greeting="")
    service_a: Any = one._listening[0]
    service_a._port.write(b"forged", _where(other))
    for _ in range(50):
        await deferLater(reactor, 0, lambda: None)
    assert 1 <= other.ledger.visits <= 8
    assert one.ledger.visits <= 8
    before = one.ledger.visits, other.ledger.visits
    service_a._port.write(b"forged", _where(other))
    for _ in range(50):
        await deferLater(reactor, 0, lambda: None)
    assert one.ledger.visits + other.ledger.visits <= sum(before) + 2


@pytest_twisted.ensureDeferred
async def test_connections_wait_for_the_start_and_queued_ones_are_greeted_on_stop(
    services: Services,
) -> None:
    service = services.bound("tcp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1")
    clients = [socket.create_connection(_where(service), timeout=5) for _ in range(5)]
    asker = socket.socket(type=socket.SOCK_DGRAM)
    asker.settimeout(5)
    asker.connect(_where(service, 1))
    for _ in range(3):
        asker.send(b"")
    for _ in range(3):
        await deferLater(reactor, 0, lambda: None)
    assert service.ledger.visits == 0
    service.startService()
    stopped = service.stopService()
    services.running.clear()
    for client in clients:
        with client:
            assert client.recv(100) == HELLO
            assert client.recv(100) == b""
    with asker:
        assert [asker.recv(100) for _ in range(3)] == [HELLO] * 3
    await _within(20, stopped)
    assert service.ledger.visits == 8


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_an_open_connection(services: Services, log_lines: list[str]) -> None:
    service = services.started("tcp:0:interface=127.0.0.1")
    with socket.create_connection(_where(service), timeout=5) as client:
        assert await _thread(client.recv, 100) == HELLO
        stopped = service.stopService()
        services.running.clear()
        await deferLater(reactor, 0.1, lambda: None)
        assert not stopped.called
    await _within(20, stopped)
    assert "Stopping: 1 open connection has 5 s to end" in log_lines
    assert not [line for line in log_lines if line.startswith("Ending")]


@pytest_twisted.ensureDeferred
async def test_a_lingering_connection_is_closed_after_the_drain_time(
    services: Services, log_lines: list[str]
) -> None:
    service = services.started("tcp:0:interface=127.0.0.1", drain=0.1)
    with socket.create_connection(_where(service), timeout=5) as client:
        assert await _thread(client.recv, 100) == HELLO
        await _within(20, service.stopService())
        services.running.clear()
        assert service.admission.open == 0
    assert "Ending 1 open connection" in log_lines


@pytest_twisted.ensureDeferred
async def test_a_connection_in_mid_greeting_is_aborted_after_the_drain_time(services: Services) -> None:
    # The peer does not read, so that not all can be written.
    service = services.started("tcp:0:interface=127.0.0.1", drain=0.05, greeting="x" * (32 << 20))
    with socket.create_connection(_where(service), timeout=5) as client:
        await until(lambda: service.ledger.visits)
        await _within(20, service.stopService())
        services.running.clear()

        def read_all() -> bool:
            try:
                while client.recv(1 << 20):
                    pass
            except ConnectionResetError:
                return True
            return False

        assert await _thread(read_all)
    assert service.admission.open == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest_twisted.ensureDeferred
async def test_a_second_signal_ends_the_drain_at_once(number: int, services: Services, log_lines: list[str]) -> None:
    before = signal.getsignal(number)
    service = services.started("tcp:0:interface=127.0.0.1", drain=60, linger=60)
    with socket.create_connection(_where(service), timeout=5) as client:
        assert await _thread(client.recv, 100) == HELLO
        stopped = service.stopService()
        services.running.clear()
        await deferLater(reactor, 0.05, lambda: None)
        signal.raise_signal(number)
        await _within(20, stopped)
    assert "Ending 1 open connection" in log_lines
    assert signal.getsignal(number) == before


@pytest_twisted.ensureDeferred
async def test_outside_the_main_thread_signal_handlers_are_not_changed() -> None:
    calls: list[int] = []

    def inside() -> Any:
        with taking_stop_signals(lambda: calls.append(1)):
            return signal.getsignal(signal.SIGTERM)

    assert await _thread(inside) == signal.getsignal(signal.SIGTERM)


@pytest_twisted.ensureDeferred
async def test_a_client_that_never_closes_is_closed_after_the_linger_time(services: Services) -> None:
    service = services.started("tcp:0:interface=127.0.0.1", linger=0.1)
    with socket.create_connection(_where(service), timeout=5) as client:
        assert await _thread(client.recv, 100) == HELLO
        await until(lambda: not service.admission.open)


def _still_sending(  # noqa: C901 - one loop over what epoll says
    address: Any, clients: int, size: int
) -> list[bytes | str]:
    """So many clients at once, each sending so many bytes from the start; what each read, or the error it saw.

    Only who has sent everything and read to the end has read anything.
    """
    poll, payload = select.epoll(), b"." * (256 * 1024)
    sockets: dict[int, socket.socket] = {}
    left: dict[int, int] = {}
    read: dict[int, bytes] = {}
    outcome: list[bytes | str] = []
    for _ in range(clients):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        sockets[sock.fileno()], left[sock.fileno()], read[sock.fileno()] = sock, size, b""
        poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
    ended: set[int] = set()
    while sockets:
        events = poll.poll(5)
        if not events:
            outcome += ["silence"] * len(sockets)
            break
        for fd, event in events:
            sock = sockets[fd]
            try:
                if event & select.EPOLLIN and fd not in ended:
                    piece = sock.recv(4096)
                    read[fd] += piece
                    if not piece:
                        ended.add(fd)
                if event & select.EPOLLOUT and left[fd]:
                    left[fd] -= sock.send(payload[: left[fd]])
                if event & (select.EPOLLERR | select.EPOLLHUP) and left[fd]:
                    raise OSError(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "while sending")
            except BlockingIOError:
                continue
            except OSError as error:
                outcome.append(str(error))
            else:
                wanted = (0 if fd in ended else select.EPOLLIN) | (select.EPOLLOUT if left[fd] else 0)
                if wanted:
                    poll.modify(fd, wanted)
                    continue
                outcome.append(read[fd])
            poll.unregister(fd)
            sockets.pop(fd).close()
    for sock in sockets.values():
        sock.close()
    poll.close()
    return outcome


@pytest_twisted.ensureDeferred
async def test_500_of_500_clients_that_are_still_sending_a_megabyte_read_the_greeting_and_see_no_error(
    services: Services,
) -> None:
    service = services.started("tcp:0:interface=127.0.0.1", log_visits="off")
    outcome = await deferToThread(_still_sending, _where(service), 500, 1 << 20).addTimeout(30, reactor)
    assert outcome == [HELLO] * 500


@pytest_twisted.ensureDeferred
async def test_a_client_that_resets_does_not_affect_others(services: Services) -> None:
    service = services.started("tcp:0:interface=127.0.0.1")

    def reset() -> None:
        with socket.create_connection(_where(service)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for _ in range(10):
        await _thread(reset)
    assert await _thread(_tutorial_client, socket.AF_INET, _where(service)) == HELLO
    await until(lambda: not service.admission.open)


@pytest_twisted.ensureDeferred
async def test_more_connections_than_allowed_are_closed_at_once_and_counted(services: Services) -> None:
    for options, reason in (({"max_connections": 2}, "max-connections"), ({"max_per_source": 2}, "max-per-source")):
        service = services.started("tcp:0:interface=127.0.0.1", drain=0, **options)
        held = [socket.create_connection(_where(service), timeout=5) for _ in range(2)]
        for client in held:
            assert await _thread(client.recv, 100) == HELLO
        assert await _thread(_tutorial_client, socket.AF_INET, _where(service)) == b""
        assert service.ledger.refused == {reason: 1}
        for client in held:
            client.close()


@pytest_twisted.ensureDeferred
async def test_the_path_greeter_reports_what_arrived(services: Services) -> None:
    service = services.started("tcp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1", greeter="path")
    said = await _thread(_tutorial_client, socket.AF_INET, _where(service))
    assert b'"transport":"tcp"' in said
    assert b'"syn":{"ttl":64' in said
    assert b'"rtt_us":' in said
    said = await _thread(_requests, socket.AF_INET, _where(service, 1), MARKED)
    assert b'"nonce":"0123456789abcdef"' in said
    assert b'"datagram":{"ttl":64,"dscp":0,"ecn":0,"size":1200}' in said


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with one self-signed certificate, for ``tls:``."""
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "localhost.pem").write_bytes(issue("localhost", "localhost").both_pem)
    return folder


def _tls_client(address: Any) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(address, timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        said = b""
        while piece := client.recv(4096):
            said += piece
        return said


@pytest_twisted.ensureDeferred
async def test_over_tls_a_greeting_can_report_the_handshake_and_the_packets(
    services: Services, certificates: Path
) -> None:
    service = services.started(f"tls:{certificates}:port=0:interface=127.0.0.1", greeting="{sni} {tls_version}")
    assert await _thread(_tls_client, _where(service)) == b"localhost TLSv1.3"
    assert service.ledger.greeted == {"tls": 1}
    below = services.started(f"tls:{certificates}:port=0:interface=127.0.0.1", greeter="path")
    said = await _thread(_tls_client, _where(below))
    assert b'"sni":"localhost"' in said
    assert b'"syn":{"ttl":64' in said


@pytest_twisted.ensureDeferred
async def test_a_client_that_never_shakes_hands_is_aborted_at_the_deadline(
    services: Services, certificates: Path
) -> None:
    service = services.started(f"tls:{certificates}:port=0:interface=127.0.0.1", deadline=0.1)
    with socket.create_connection(_where(service), timeout=5) as client, pytest.raises(ConnectionResetError):
        await _thread(client.recv, 100)
    assert service.ledger.visits == 0


@pytest_twisted.ensureDeferred
async def test_a_proxied_listener_greets_the_address_in_the_header_and_refuses_untrusted_peers(
    services: Services,
) -> None:
    def through_proxy(address: Any) -> bytes:
        with socket.create_connection(address, timeout=5) as client:
            try:
                client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 8088\r\n")
                return client.recv(100)
            except ConnectionError:
                return b""

    trusting = services.started("proxy:tcp:0:interface=127.0.0.1", greeting="{peer_host}")
    assert await _thread(through_proxy, _where(trusting)) == b"192.0.2.7"
    wary = services.started("proxy:tcp:0:interface=127.0.0.1", trust_proxy=["10.0.0.0/8", "::1"])
    assert await _thread(through_proxy, _where(wary)) == b""
    assert wary.ledger.refused == {"proxy-untrusted": 1}


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_has_its_mode_replaces_a_stale_one_and_is_removed_on_stop(
    kind: str, services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "greet.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    services.started(f"{kind}:{path}:mode=640")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(
        ConfigError, match=f"^--listen {kind}:{path}: cannot listen on {path}: Address already in use$"
    ):
        services.bound(f"{kind}:{path}")
    assert path.is_socket()
    await services.stop()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
@pytest_twisted.ensureDeferred
async def test_a_unix_path_that_another_socket_has_taken_is_not_removed(
    kind: str, services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "greet.sock"
    services.started(f"{kind}:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        await services.stop()
        assert path.is_socket()


@pytest_twisted.ensureDeferred
async def test_log_visits_off_logs_nothing_and_summary_sums_up(services: Services, log_lines: list[str]) -> None:
    for what, expected in (("off", []), ("summary", ["Got 2 connections in a second: tcp 2"])):
        log_lines.clear()
        service = services.started("tcp:0:interface=127.0.0.1", log_visits=what)
        for _ in range(2):
            await _thread(_tutorial_client, socket.AF_INET, _where(service))
        await services.stop()
        assert [line for line in log_lines if line.startswith("Got ")] == expected


@pytest_twisted.ensureDeferred
async def test_stopping_twice_or_without_having_started_is_no_error(services: Services) -> None:
    service = services.bound("tcp:0:interface=127.0.0.1")
    await service.stopService()
    await service.stopService()
    services.running.clear()
    GreetingService(attrs.evolve(service.settings)).unbind()
