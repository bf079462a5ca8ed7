"""Packets that are kept whole, and those that may be fragmented."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from greetsvc.net.linux.fragments import AVAILABLE, fragment, keep_whole, kept_whole
from greetsvc.net.sockets import ipv6_works

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="IP_MTU_DISCOVER is Linux's")

V4, V6 = (socket.IPPROTO_IP, 10), (socket.IPPROTO_IPV6, 23)
DONT, PROBE = 0, 3


def state(sock: socket.socket) -> list[int]:
    return [sock.getsockopt(*option) for option in ([V4] if sock.family == socket.AF_INET else [V6, V4])]


@pytest.mark.parametrize(
    "family",
    [
        socket.AF_INET,
        pytest.param(socket.AF_INET6, marks=pytest.mark.skipif(not ipv6_works(), reason="there is no IPv6 here")),
    ],
)
def test_packets_are_kept_whole_for_a_while_or_for_good(family: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        before = state(sock)
        with suppress(ZeroDivisionError), kept_whole(sock):
            assert set(state(sock)) == {PROBE}
            raise ZeroDivisionError
        assert state(sock) == before
        keep_whole(sock)
        assert set(state(sock)) == {PROBE}
        fragment(sock, 100)
        assert set(state(sock)) == {DONT}
