"""Reading what ICMP said."""

from __future__ import annotations

import errno
import select
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.net.linux.error_queue import AVAILABLE, QueuedError, parse, read, turn_off, turn_on

V4 = (socket.IPPROTO_IP, 11)
V6 = (socket.IPPROTO_IPV6, 25)


def entry(number: int, offender: bytes, origin: int = 2, type_: int = 3, code: int = 3) -> bytes:
    return struct.pack("=IBBBBII", number, origin, type_, code, 0, 0, 0) + offender


def test_errno_message_and_sender_are_read() -> None:
    four = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("192.0.2.1"))
    six = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 0)
    local = struct.pack("=H14x", socket.AF_UNSPEC)
    assert parse(
        [
            (*V4, entry(111, four)),
            (*V6, entry(13, six, origin=3, type_=1, code=1)),
            (*V4, entry(90, local, origin=1, type_=0, code=0)),
        ]
    ) == [
        QueuedError(errno.ECONNREFUSED, "192.0.2.1", 4, 3, 3),
        QueuedError(errno.EACCES, "2001:db8::1", 6, 1, 1),
        QueuedError(errno.EMSGSIZE, None),
    ]


@pytest.mark.skipif(not AVAILABLE, reason="IP_RECVERR is Linux's")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_without_a_listener_is_in_the_queue_of_the_sender(family: int, free_port: int) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        turn_on(sock)
        sock.sendto(b"x", (host, free_port))
        select.select([sock], [], [], 5)
        version, kind, code = (4, 3, 3) if family == socket.AF_INET else (6, 1, 4)
        assert read(sock) == [QueuedError(errno.ECONNREFUSED, host, version, kind, code)]  # type: ignore[arg-type]
        assert read(sock) == []


@pytest.mark.skipif(not AVAILABLE, reason="IP_RECVERR is Linux's")
def test_turning_the_queue_off_empties_it(free_port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        turn_on(sock)
        sock.sendto(b"x", ("127.0.0.1", free_port))
        select.select([sock], [], [], 5)
        turn_off(sock)
        assert read(sock) == []


def test_other_messages_are_ignored() -> None:
    assert parse([(socket.SOL_SOCKET, 1, entry(111, b"")), (*V4, b"short")]) == []


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    assert len(parse([(*V4, data)])) <= 1
