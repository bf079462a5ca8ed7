"""How probes leave, and what our own side says of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from greetsvc import greet, wire
from greetsvc.client import ClientTls
from greetsvc.client.outgoing import Claim, Outgoing, parse_claim
from greetsvc.client.probe.greet import Asking, ask
from greetsvc.client.sent import OPTIONS, Sent, offered, read_datagram, read_stream
from greetsvc.client.target import parse
from greetsvc.errors import ConfigError
from greetsvc.net.proxy.header import ProxyParser
from greetsvc.visit import Address

HERE = Address("127.0.0.1", 8088)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A listener on loopback, and a socket to connect to it."""
    host = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=request.param) as listener, socket.socket(request.param) as ours:
        yield listener, ours


def asking(**outgoing: Any) -> Asking:
    return Asking(outgoing=Outgoing(**outgoing))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("192.0.2.1:1234", Address("192.0.2.1", 1234)),
        ("[2001:db8::1]:0", Address("2001:db8::1", 0)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_a_claim_names_an_address_and_a_port(text: str, source: Address) -> None:
    assert parse_claim(1, text) == Claim(1, source)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        ":1",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:x",
        "192.0.2.1:٣",
        "2001:db8::1:1",
        "[192.0.2.1]:1",
        "[fe80::1%1]:1",
        "host:1",
        "a\nb:1",
    ],
)
def test_other_claims_are_named_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="must be an address and a port, as ") as caught:
        parse_claim(2, text)
    assert caught.value.name == "proxy-v2"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("source", "destination", "named"),
    [
        (Address("192.0.2.1", 7), HERE, ("192.0.2.1", 7, "127.0.0.1", 8088)),
        (Address("2001:db8::1", 7), Address("fe80::2%3", 9), ("2001:db8::1", 7, "fe80::2", 9)),
        (Address("192.0.2.1", 7), Address("/s", 0), ("192.0.2.1", 7, "0.0.0.0", 0)),
        (Address("2001:db8::1", 7), Address("/s", 0), ("2001:db8::1", 7, "::", 0)),
    ],
)
def test_a_header_is_what_a_server_reads(version: Any, source: Address, destination: Address, named: Any) -> None:
    found: Any = ProxyParser().feed(Outgoing(claim=Claim(version, source)).header(destination))
    assert found[1] == b""
    ends = found[0].source, found[0].destination
    assert (ends[0].host, ends[0].port, ends[1].host, ends[1].port) == named


def test_without_a_claim_there_is_no_header() -> None:
    assert Outgoing().header(HERE) == b""
    assert Outgoing(claim=Claim(1, HERE)).header(None) == b""


@pytest.mark.parametrize(
    ("name", "setting"),
    [("dscp", {"dscp": 64}), ("dscp", {"dscp": -1}), ("source-port", {"source_port": 0})],
)
def test_what_cannot_be_sent_is_refused(name: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Outgoing(**setting)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("target", "outgoing", "line"),
    [
        ("unix:/s", Outgoing(dscp=1), "dscp 1: needs packets, and unix:/s has none"),
        ("unixgram:/s", Outgoing(source_port=9), "source-port 9: needs ports, and unixgram:/s has none"),
        (
            "udp:h:1",
            Outgoing(claim=Claim(2, HERE)),
            "proxy-v2 127.0.0.1:8088: needs a connection, and udp:h:1 has none",
        ),
    ],
)
def test_targets_that_have_no_use_for_it_refuse_it(target: str, outgoing: Outgoing, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Asking(outgoing=outgoing).check(parse(target))
    assert str(caught.value) == line


def test_our_own_side_of_a_connection_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    listener, ours = pair
    Outgoing(dscp=46).prepare(ours)
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


def test_a_source_port_is_taken_again_at_once(pair: tuple[socket.socket, socket.socket], free_port: int) -> None:
    listener, ours = pair
    Outgoing(source_port=free_port).prepare(ours)
    ours.connect(listener.getsockname())
    assert ours.getsockname()[1] == free_port
    with socket.socket(ours.family) as again:
        Outgoing(source_port=free_port).prepare(again)


def test_our_own_side_of_a_datagram_is_read_without_connecting_it() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sent = read_datagram(sock, HERE, ("127.0.0.1", 8088), "ab")
        assert sent.local == Address("127.0.0.1", sock.getsockname()[1])
        assert (sent.nonce, sent.mss, sent.syns, sent.offered) == ("ab", None, None, None)
        nowhere = read_datagram(sock, HERE, ("255.255.255.255", 8088), None)
        assert nowhere.local == Address("0.0.0.0", sock.getsockname()[1])


def test_a_socket_that_is_gone_tells_nothing() -> None:
    sock = socket.socket()
    sock.close()
    assert read_stream(sock, HERE) == Sent(HERE, offered=offered())


def test_what_this_system_offers_is_read_from_its_switches(tmp_path: Path) -> None:
    for switch, state in zip(OPTIONS.values(), "102", strict=True):
        (tmp_path / switch).write_text(f"{state}\n")
    assert offered(tmp_path) == frozenset(["timestamps", "wscale"])
    assert offered(tmp_path / "elsewhere") is None
    offered.cache_clear()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest_twisted.ensureDeferred
async def test_a_probe_leaves_from_the_port_that_it_was_given(peers: Any, free_port: int, transport: str) -> None:
    def stream(connection: socket.socket) -> None:
        connection.sendall(str(connection.getpeername()[1]).encode())

    def datagram(sock: socket.socket, _: bytes, sender: Any) -> None:
        sock.sendto(str(sender[1]).encode(), sender)

    target = peers.stream(stream) if transport == "tcp" else peers.datagram(datagram)
    for _ in range(3):
        greeting = await ask(parse(target), asking(source_port=free_port, dscp=10))
        assert greeting.text == str(free_port)
        assert greeting.sent is not None
        assert greeting.sent.local == Address("127.0.0.1", free_port)
        assert greeting.sent.dscp == 10


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_header_goes_first_and_below_tls(peers: Any, papers: Any, tls: bool, version: Any) -> None:
    heard: list[Any] = []

    def listen(connection: socket.socket) -> None:
        parser = ProxyParser()
        found: Any = None
        while not found:
            found = parser.feed(connection.recv(1))
        heard.append(found[0].source.host)
        if not tls:
            connection.sendall(b"hello")
            return
        with papers.server("good").wrap_socket(connection, server_side=True) as agreed:
            agreed.sendall(b"hello")

    target = peers.stream(listen)
    told: list[str] = []
    claim = Claim(version, Address("192.0.2.1", 7))
    greeting = await ask(
        parse(f"tls:{target}" if tls else target),
        Asking(outgoing=Outgoing(claim=claim), tls=ClientTls(ca=papers.path("ca")) if tls else None),
        trace=told.append,
    )
    assert greeting.data == b"hello"
    assert greeting.sent is not None
    assert greeting.sent.claimed == claim.source
    assert heard == ["192.0.2.1"]
    assert sum(line.startswith("> a PROXY header (") for line in told) == 1


@pytest_twisted.ensureDeferred
async def test_a_probe_without_settings_knows_its_own_side(peers: Any) -> None:
    greeting = await greet(peers.stream(lambda connection: connection.sendall(b"hello")))
    assert greeting.path is None
    assert greeting.sent is not None
    assert greeting.sent.asked == greeting.peer
    assert wire.decode_record(greeting.data) is None
