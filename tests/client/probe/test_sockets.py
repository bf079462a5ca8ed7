"""The sockets of probes: what is set on them, and what our own side knows afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from greetsvc import greet, wire
from greetsvc.client import ClientTls
from greetsvc.client.options import ProbeOptions, ProxyClaim
from greetsvc.client.path import Sent
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.sockets import offered_options, prepare, read_datagram, read_stream
from greetsvc.client.target import parse
from greetsvc.net.proxy.header import ProxyParser
from greetsvc.visit import Address

HERE = Address("127.0.0.1", 8088)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A listener on loopback, and a socket to connect to it."""
    host = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=request.param) as listener, socket.socket(request.param) as ours:
        yield listener, ours


def test_our_own_side_of_a_connection_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    listener, ours = pair
    prepare(ours, ProbeOptions(dscp=46))
    ours.connect(listener.getsockname())
    host, port, *_ = ours.getsockname()
    sent = read_stream(ours, HERE, HERE)
    assert (sent.local, sent.dscp, sent.claimed, sent.syns) == (Address(host, port), 46, HERE, 1)
    assert sent.ttl is not None
    assert 0 < sent.ttl <= 255
    assert sent.mss is not None
    assert sent.mss > 30000, "loopback's MTU"
    assert sent.tcp is not None
    assert sent.mss == sent.tcp.advertised_mss + (12 if sent.tcp.timestamps else 0)


def test_a_source_port_can_be_used_again_at_once(pair: tuple[socket.socket, socket.socket], free_port: int) -> None:
    listener, ours = pair
    prepare(ours, ProbeOptions(source_port=free_port))
    ours.connect(listener.getsockname())
    assert ours.getsockname()[1] == free_port
    with socket.socket(ours.family) as again:
        prepare(again, ProbeOptions(source_port=free_port))


def test_our_own_side_of_a_datagram_is_read_without_connecting_it() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sent = read_datagram(sock, HERE, ("127.0.0.1", 8088), "ab")
        assert sent.local == Address("127.0.0.1", sock.getsockname()[1])
        assert (sent.nonce, sent.mss, sent.syns, sent.offered) == ("ab", None, None, None)
        nowhere = read_datagram(sock, HERE, ("255.255.255.255", 8088), None)
        assert nowhere.local == Address("0.0.0.0", sock.getsockname()[1])


def test_a_closed_socket_gives_no_facts() -> None:
    sock = socket.socket()
    sock.close()
    assert read_stream(sock, HERE) == Sent(HERE, offered=offered_options())


def test_what_this_system_offers_is_read_from_its_switches(tmp_path: Path) -> None:
    for switch, state in zip(("tcp_timestamps", "tcp_sack", "tcp_window_scaling"), "102", strict=True):
        (tmp_path / switch).write_text(f"{state}\n")
    assert offered_options(tmp_path) == frozenset(["timestamps", "wscale"])
    assert offered_options(tmp_path / "elsewhere") is None
    offered_options.cache_clear()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest_twisted.ensureDeferred
async def test_a_probe_is_sent_from_the_source_port(peers: Any, free_port: int, transport: str) -> None:
    def stream(connection: socket.socket) -> None:
        connection.sendall(str(connection.getpeername()[1]).encode())

    def datagram(sock: socket.socket, _: bytes, sender: Any) -> None:
        sock.sendto(str(sender[1]).encode(), sender)

    target = peers.stream(stream) if transport == "tcp" else peers.datagram(datagram)
    for _ in range(3):
        greeting = await Probe(parse(target), ProbeOptions(source_port=free_port, dscp=10)).run()
        assert greeting.text == str(free_port)
        assert greeting.sent is not None
        assert greeting.sent.local == Address("127.0.0.1", free_port)
        assert greeting.sent.dscp == 10


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_header_goes_first_and_below_tls(peers: Any, papers: Any, tls: bool, version: Any) -> None:
    sources: list[Any] = []

    def listen(connection: socket.socket) -> None:
        parser = ProxyParser()
        found: Any = None
        while not found:
            found = parser.feed(connection.recv(1))
        sources.append(found[0].source.host)
        if not tls:
            connection.sendall(b"hello")
            return
        with papers.server("good").wrap_socket(connection, server_side=True) as agreed:
            agreed.sendall(b"hello")

    target = peers.stream(listen)
    traced: list[str] = []
    claim = ProxyClaim(version, Address("192.0.2.1", 7))
    options = ProbeOptions(proxy=claim, tls=ClientTls(ca=papers.path("ca")) if tls else None)
    greeting = await Probe(parse(f"tls:{target}" if tls else target), options).run(trace=traced.append)
    assert greeting.data == b"hello"
    assert greeting.sent is not None
    assert greeting.sent.claimed == claim.source
    assert sources == ["192.0.2.1"]
    assert sum(line.startswith("> a PROXY header (") for line in traced) == 1


@pytest_twisted.ensureDeferred
async def test_a_probe_without_options_knows_its_own_side(peers: Any) -> None:
    greeting = await greet(peers.stream(lambda connection: connection.sendall(b"hello")))
    assert greeting.path is None
    assert greeting.sent is not None
    assert greeting.sent.destination == greeting.peer
    assert wire.decode_record(greeting.data) is None


@pytest_twisted.ensureDeferred
async def test_without_a_claim_no_header_is_sent(peers: Any) -> None:
    received: list[bytes] = []

    def greet_and_listen(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        received.append(connection.recv(100))

    await greet(peers.stream(greet_and_listen))
    peers.stop()
    assert received == [b""]
