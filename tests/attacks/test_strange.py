"""Data and behaviour that no ordinary peer shows."""

from __future__ import annotations

import os
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.threads import deferToThread

from greetsvc import wire
from tests.support.waiting import until

GREETING = b"Thank you for connecting\r\n"
TCP = "tcp:0:interface=127.0.0.1"
RESET = struct.pack("ii", 1, 0)


@pytest_twisted.ensureDeferred
async def test_datagrams_of_every_size_and_content_are_answered_or_counted(serve: Any) -> None:
    ours = serve("udp:0", greeter="path")
    chance = random.Random(7)
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", ours.ports[0]))
        sock.settimeout(10)
        for size in (0, 1, 7, 8, 9, 24, 25, 512, 1199, 1200, 1201, wire.MAX_REQUEST - 1, wire.MAX_REQUEST):
            for start in (b"", wire.MARK, wire.MARK + b"\xff" * 16, wire.MARK + b"-" * 16 + b"{peer_host}"):
                sock.send((start + chance.randbytes(size))[: max(size, len(start))])
                sent += 1
        await until(lambda: ours.ledger.visits + ours.ledger.refused.total() == sent)
        # Longer ones than are read are dropped, whatever they begin with; the next is answered.
        for size in (wire.MAX_REQUEST + 1, 20_000, 65_507):
            sock.send(wire.request("0" * 16, size))
        sock.send(wire.request("f" * 16, 1200))
        heard = b""
        while b'"nonce":"ffffffffffffffff"' not in heard:
            heard = await deferToThread(sock.recv, 2000)
    assert ours.ledger.refused["oversize"] == 3
    assert ours.ledger.visits + ours.ledger.refused.total() == sent + 4


@pytest_twisted.ensureDeferred
async def test_urgent_data_half_closes_and_resets_leave_no_connection_open(serve: Any, visitor: Any) -> None:
    ours = serve(TCP, linger=0.3)
    (port,) = ours.ports
    urgent = visitor.connect(port)
    urgent.send(b"!", socket.MSG_OOB)
    half = visitor.connect(port)
    half.shutdown(socket.SHUT_WR)
    assert await deferToThread(visitor.read, half) == GREETING
    assert await deferToThread(visitor.read, urgent) == GREETING
    for _ in range(200):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.connect(("127.0.0.1", port))
    await until(lambda: ours.service.admission.open == 0)


@pytest_twisted.ensureDeferred
async def test_a_visitor_that_sends_without_end_is_cut_off(serve: Any, visitor: Any) -> None:
    """After 16 MiB: the deadline would be a minute away."""
    ours = serve(TCP, deadline=60)
    sock = visitor.connect(ours.ports[0])

    def send() -> int:
        sent, data = 0, bytes(1 << 20)
        try:
            while sent < 1 << 30:
                sent += sock.send(data)
        except ConnectionError:
            return sent
        return sent

    assert 16 << 20 < await deferToThread(send) < 64 << 20
    await until(lambda: ours.service.admission.open == 0)


@pytest_twisted.ensureDeferred
async def test_names_of_unix_peers_are_escaped_in_greetings_and_logs(serve: Any, tmp_path: Path) -> None:
    place = tmp_path / "greet"
    serve(f"unixgram:{place}", f"unix:{tmp_path / 'stream'}", greeting="{peer_host}")
    name = os.fsencode(tmp_path) + b"/\xff\n\x1b[31m"
    shown = f"{tmp_path}/\\xff\\n\\x1b[31m".encode()

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.bind(name)
            sock.sendto(b"hello", str(place))
            return sock.recv(500)

    def connect() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name + b"2")
            sock.connect(str(tmp_path / "stream"))
            return sock.recv(500)

    assert await deferToThread(ask) == shown
    assert await deferToThread(connect) == shown + b"2"


@pytest_twisted.ensureDeferred
async def test_a_unix_peer_that_does_not_read_delays_nobody(serve: Any, tmp_path: Path) -> None:
    place = tmp_path / "greet"
    ours = serve(f"unixgram:{place}")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        for sock, name in ((deaf, "deaf"), (other, "other")):
            sock.settimeout(10)
            sock.bind(str(tmp_path / name))
        for _ in range(600):
            await deferToThread(deaf.sendto, wire.request("0" * 16, 100), str(place))
        await deferToThread(other.sendto, b"hello", str(place))
        assert await deferToThread(other.recv, 100) == GREETING
    assert ours.ledger.refused["send-EAGAIN"] > 0
