"""Reading what ICMP said."""

from __future__ import annotations

import errno
import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from greetsvc.net.linux.error_queue import Unreachable, parse

V4 = (socket.IPPROTO_IP, 11)
V6 = (socket.IPPROTO_IPV6, 25)


def entry(number: int, offender: bytes) -> bytes:
    return struct.pack("=IBBBBII", number, 2, 3, 3, 0, 0, 0) + offender


def test_the_errno_and_the_offender_are_read() -> None:
    four = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("192.0.2.1"))
    six = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 0)
    local = struct.pack("=H14x", socket.AF_UNSPEC)
    assert parse([(*V4, entry(111, four)), (*V6, entry(113, six)), (*V4, entry(90, local))]) == [
        Unreachable(errno.ECONNREFUSED, "192.0.2.1"),
        Unreachable(errno.EHOSTUNREACH, "2001:db8::1"),
        Unreachable(errno.EMSGSIZE, None),
    ]


def test_other_messages_are_ignored() -> None:
    assert parse([(socket.SOL_SOCKET, 1, entry(111, b"")), (*V4, b"short")]) == []


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    assert len(parse([(*V4, data)])) <= 1
