"""Peers of talking protocols that send and do not read, or never finish a message."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from greetsvc.daemon.settings.memory import PER_TALKING
from tests.support.process import Program
from tests.support.service import Visitor
from tests.support.waiting import wait_until

PEERS = 100
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FLOODS = {
    "lines": (b"", b"\n"),
    "websocket": (HANDSHAKE, b"\x81\x80\0\0\0\0"),
}


def _push(peers: list[socket.socket], data: bytes) -> int:
    """Send to all what they take; how many bytes that was."""
    sent = 0
    for peer in peers:
        with suppress(BlockingIOError):
            sent += peer.send(data)
    return sent


@pytest.mark.parametrize("protocol", FLOODS)
def test_peers_that_send_and_do_not_read_cost_no_more_than_is_reckoned(
    child: Callable[..., Program], visitor: Visitor, protocol: str
) -> None:
    """Each message is as short, and each answer as long, as it gets in practice."""
    opening, message = FLOODS[protocol]
    server = child(
        *("--listen", "tcp:0:interface=127.0.0.1", "--protocol", protocol, "--greeting", "x" * 2000 + "{name}"),
        *("--deadline", "60", "--drain", "0"),
    )
    (port,) = server.ports()
    peers = [visitor.connect(port, window=2048) for _ in range(PEERS)]
    before = server.rss()
    for peer in peers:
        peer.sendall(opening)
        if opening:
            assert peer.recv(10)  # the handshake is done before anything follows
        peer.setblocking(False)
    wait_until(
        lambda: not _push(peers, message * 16384) and server.asleep(),
        "it reads without end from peers that do not read",
    )
    assert server.rss() - before < PEERS * PER_TALKING
    server.stop()
