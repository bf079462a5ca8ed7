"""Data before or instead of a PROXY header, and headers from peers that are not trusted."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from greetsvc.net.proxy.header import LONGEST_V1, LONGEST_V2, encode_v1, encode_v2

TCP = "tcp:0:interface=127.0.0.1"
ENDS = ("203.0.113.7", 4000), ("192.0.2.1", 80)
V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def exchange(visitor: Any, port: int, pieces: list[bytes], source: str = "") -> bytes:
    """What is read until the end after sending each piece in a segment of its own."""
    sock = visitor.connect(port, source=source)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(ConnectionError):
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.001)
    return bytes(visitor.read(sock))


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
@pytest_twisted.ensureDeferred
async def test_a_header_byte_by_byte_names_the_visitor(serve: Any, visitor: Any, encode: Any) -> None:
    ours = serve(f"proxy:{TCP}", greeting="{peer_host}:{peer_port}")
    pieces = [bytes((byte,)) for byte in encode(*ENDS)]
    assert await deferToThread(exchange, visitor, ours.ports[0], pieces) == b"203.0.113.7:4000"


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "v1 without an end": b"PROXY TCP4 " + b"1" * LONGEST_V1,
    "v1 with an odd address": b"PROXY TCP4 999.2.3.4 1.2.3.4 1 2\r\n",
    "v1 with an odd port": b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 2\r\n",
    "v2 too long": V2 + b"\x21\x11" + struct.pack("!H", LONGEST_V2) + bytes(100),
    "v2 too short": V2 + b"\x21\x11" + struct.pack("!H", 3) + bytes(3),
    "v2 of an unknown version": V2 + b"\x31\x11" + struct.pack("!H", 12) + bytes(12),
    "part of a header, then the end": b"PROXY TCP4 1.2",
    "noise": os.urandom(4096).replace(b"P", b"Q").replace(b"\r", b"Q"),
}


@pytest_twisted.ensureDeferred
async def test_anything_but_a_header_is_refused_and_counted(serve: Any, visitor: Any) -> None:
    ours = serve(f"proxy:{TCP}")
    (port,) = ours.ports

    def send(data: bytes) -> bytes:
        sock = visitor.connect(port)
        sock.sendall(data)
        with suppress(OSError):  # it may be closed already
            sock.shutdown(socket.SHUT_WR)
        return bytes(visitor.read(sock))

    for number, (what, data) in enumerate(GARBAGE.items(), 1):
        assert await deferToThread(send, data) == b"", what
        await ours.until_refused("proxy-header", number)
    assert ours.ledger.refused == {"proxy-header": len(GARBAGE)}
    assert not ours.ledger.visits


@pytest_twisted.ensureDeferred
async def test_a_peer_that_is_not_trusted_is_refused_whatever_it_says(serve: Any, visitor: Any) -> None:
    ours = serve(f"proxy:{TCP}", r"proxy:tcp:0:interface=\:\:", trust_proxy=["127.9.9.0/24"])
    for number, port in enumerate(ours.ports, 1):
        header = [encode_v2(*ENDS)]
        assert await deferToThread(exchange, visitor, port, header, "127.9.8.1") == b""
        assert ours.ledger.refused == {"proxy-untrusted": number}
        assert await deferToThread(exchange, visitor, port, header, "127.9.9.1") != b""


@pytest_twisted.ensureDeferred
async def test_headers_that_name_nobody_or_a_path_are_greeted(serve: Any, visitor: Any) -> None:
    ours = serve(f"proxy:{TCP}", greeting="{peer_host} {local_host}")
    (port,) = ours.ports
    unix = b"/tmp/\x1b[31m\n".ljust(108, b"\0") + b"\0abstract\xff".ljust(108, b"\0")
    headers = {
        V2 + b"\x20\x00\0\0": b"127.0.0.1 127.0.0.1",
        V2 + b"\x21\x00\0\0": b"127.0.0.1 127.0.0.1",
        b"PROXY UNKNOWN\r\n": b"127.0.0.1 127.0.0.1",
        V2 + b"\x21\x31" + struct.pack("!H", 216) + unix: rb"/tmp/\x1b[31m\n @abstract\xff",
        V2 + b"\x21\x31" + struct.pack("!H", 216) + bytes(216): b" ",
        b"PROXY TCP4 0.0.0.0 255.255.255.255 0 0\r\n": b"0.0.0.0 255.255.255.255",
        b"PROXY TCP6 ff02::1 :: 65535 0\r\n": b"ff02::1 ::",
    }
    for header, said in headers.items():
        assert await deferToThread(exchange, visitor, port, [header]) == said
    assert ours.ledger.visits == len(headers)
    assert not ours.ledger.refused


@pytest_twisted.ensureDeferred
async def test_a_header_in_front_of_a_unix_socket_names_the_visitor(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "greet"
    serve(f"proxy:unix:{path}", greeting="{peer_host}")

    def visit() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(encode_v1(*ENDS))
            return sock.recv(100)

    assert await deferToThread(visit) == b"203.0.113.7"
