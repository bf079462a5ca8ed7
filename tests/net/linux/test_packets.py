"""What a packet looked like when it arrived."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.net.linux import packets as arrival
from greetsvc.net.linux import tcp_info
from greetsvc.net.linux.packets import Arrival, Syn, parse_syn
from greetsvc.net.linux.tcp_info import parse_tcp_info, read_tcp_info
from greetsvc.net.sockets import ipv6_works

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")

MSS, SACK, TIMESTAMPS, SCALE = b"\2\4\5\xb4", b"\4\2", b"\x08\x0a\1\2\3\4" + bytes(4), b"\3\3\7"
NOP = b"\1"


def _tcp(options: bytes) -> bytes:
    options += bytes(-len(options) % 4)
    return bytes(12) + bytes(((5 + len(options) // 4) << 4, 2)) + bytes(6) + options


def _ipv4(options: bytes, *, ttl: int = 61, tos: int = 0xB9, padding: int = 0) -> bytes:
    return bytes((0x45 + padding // 4, tos)) + bytes(6) + bytes((ttl, 6)) + bytes(10 + padding) + _tcp(options)


@pytest.mark.parametrize("padding", [0, 8])
def test_header_and_options_of_an_ipv4_syn_are_parsed(padding: int) -> None:
    packet = _ipv4(MSS + SACK + TIMESTAMPS + NOP + SCALE, padding=padding)
    assert parse_syn(packet) == Syn(61, 46, 1, 1460, 7, sack=True, timestamps=True, tsval=0x01020304)


@pytest.mark.parametrize("extension", [b"", b"\0", b"\x2b\0"])
def test_header_and_options_of_an_ipv6_syn_are_parsed(extension: bytes) -> None:
    # Each extension header names the next: hop-by-hop (0), routing (43), then TCP (6).
    chain = [*extension, 6]
    headers = b"".join(bytes((following, 0)) + bytes(6) for following in chain[1:])
    packet = b"\x6b\x90\0\0\0\0" + bytes((chain[0], 59)) + bytes(32) + headers + _tcp(MSS)
    assert parse_syn(packet) == Syn(59, 46, 1, 1460, None, sack=False, timestamps=False)


def test_missing_options_are_none_or_false() -> None:
    assert parse_syn(_ipv4(b"")) == Syn(61, 46, 1, None, None, sack=False, timestamps=False)
    assert parse_syn(_ipv4(b"\xfe\4ab" + b"\0" + SACK)) == Syn(61, 46, 1, None, None, sack=False, timestamps=False)


@pytest.mark.parametrize("options", [b"\2", b"\2\0\0\0", b"\3\2\0\0", b"\x09\1"])
def test_a_broken_option_ends_the_parsing(options: bytes) -> None:
    found = parse_syn(_ipv4(options))
    assert found is None or (found.mss, found.wscale) == (None, None)


@given(st.binary(max_size=120))
def test_any_packet_is_parsed_without_an_error(packet: bytes) -> None:
    assert isinstance(parse_syn(packet), Syn | None)


@pytest.mark.parametrize("length", [0, 103])
def test_a_short_tcp_info_is_none(length: int) -> None:
    assert parse_tcp_info(bytes(length)) is None


def test_tcp_info_is_read_at_the_right_offsets() -> None:
    words = list(range(100, 124))
    info = parse_tcp_info(bytes((1, 0, 0, 0, 0, 0b110, 0, 0)) + struct.pack("=24I", *words))
    assert info is not None
    assert (info.rtt_us, info.mss, info.retransmits, info.advertised_mss) == (115, 102, 123, 119)
    assert (info.timestamps, info.sack, info.wscale) == (False, True, True)


@pytest.fixture(params=["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connected(host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        arrival.keep_syn(listening)
        with socket.create_connection(listening.getsockname()[:2]) as client:
            server, _ = listening.accept()
            with server:
                yield server, client


@linux
def test_the_syn_of_a_connection_can_be_read_once(connected: tuple[socket.socket, socket.socket]) -> None:
    server, client = connected
    syn = arrival.read_syn(server)
    assert syn is not None
    assert 0 < syn.ttl <= 255
    assert syn.mss is not None
    assert arrival.read_syn(server) is None
    info = read_tcp_info(client)
    assert info is not None
    assert syn.mss == info.advertised_mss + 12 * syn.timestamps
    assert (info.timestamps, info.sack) == (syn.timestamps, syn.sack)


@linux
@pytest.mark.parametrize("wildcard", [False, True])
def test_ttl_dscp_ecn_and_time_of_a_datagram_are_read(host: str, wildcard: bool) -> None:
    v6 = ":" in host
    family = socket.AF_INET6 if v6 else socket.AF_INET
    level, ttl, tos = (
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS)
        if v6
        else (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS)
    )
    with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((("::" if v6 else "") if wildcard else host, 0))
        server.settimeout(5)
        arrival.ask_for_headers(server)
        client.setsockopt(level, ttl, 37)
        client.setsockopt(level, tos, 10 << 2 | 1)
        before = time.time_ns()
        client.sendto(b"x", (host, server.getsockname()[1]))
        found = arrival.read_header(server.recvmsg(10, 256)[1])
    assert found.time is not None
    assert before <= found.time <= time.time_ns()
    assert (found.ttl, found.dscp, found.ecn, found.tos) == (37, 10, 1, 10 << 2 | 1)
    assert Arrival().tos is None


def test_other_sockets_and_systems_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        arrival.keep_syn(one)
        assert arrival.read_syn(one) is None
        assert read_tcp_info(one) is None
    with socket.socket() as closed:
        pass
    assert arrival.read_syn(closed) is None
    assert read_tcp_info(closed) is None
    monkeypatch.setattr(arrival, "_LINUX", False)
    monkeypatch.setattr(tcp_info, "_LINUX", False)
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        arrival.keep_syn(tcp)
        arrival.ask_for_headers(udp)
        assert arrival.read_syn(tcp) is None
        assert read_tcp_info(tcp) is None
    assert arrival.read_header([]) == Arrival()
