"""The reflector answers a Session-Sender that was written from RFC 8762 alone, and nobody else."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from greetsvc_stamp import ntp, reflected

SECONDS = 10.0
SENDER = struct.Struct("!IIIH30x")  # RFC 8762, figure 2: sequence number, time stamp, error estimate, zero
ANSWER = struct.Struct("!I II HH II I II HH B3s")  # figure 4


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a running service."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "greetsvc", "--protocol", "stamp", "--listen", "udp:0:interface=127.0.0.1"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as service:
        end = time.monotonic() + SECONDS
        while "Server start at port: " not in log.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        yield int(log.read_text().partition("Server start at port: ")[2].split()[0])
        service.terminate()


def test_each_packet_comes_back_with_its_number_and_the_times(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.settimeout(SECONDS)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 61)
        sender.connect(("127.0.0.1", port))
        for number in range(100):  # more than unmarked requests are answered
            before = time.time()
            sender.send(SENDER.pack(number, 1000 + number, number, 0x8001))
            answer = sender.recv(2000)
            assert len(answer) == 44
            sequence, left, left_part, error, zero, came, came_part, *rest = ANSWER.unpack(answer)
            assert sequence == number
            assert error & 0xFF  # the multiplier must not be zero (RFC 4656)
            assert zero == 0
            came_at, left_at = (
                s - 2_208_988_800 + part / 2**32 for s, part in ((came, came_part), (left, left_part))
            )
            assert before - 0.001 <= came_at <= left_at <= time.time() + 0.001
            ttl = 61 if sys.platform == "linux" else 255
            assert rest == [number, 1000 + number, number, 0x8001, 0, ttl, bytes(3)]


def test_padding_and_extensions_come_back_as_they_came(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.settimeout(SECONDS)
        sender.connect(("127.0.0.1", port))
        sender.send(SENDER.pack(1, 2, 3, 4) + b"\x80\x01\x00\x04abcd")
        assert sender.recv(2000)[44:] == b"\x80\x01\x00\x04abcd"
        sender.send(SENDER.pack(1, 2, 3, 4)[:41])  # TWAMP Light
        assert len(sender.recv(2000)) == 41


def test_an_answer_is_not_answered() -> None:
    request = SENDER.pack(1, 2, 3, 0x8001)
    answer = reflected(request, 10**9, 2 * 10**9, 64)
    assert answer is not None
    assert reflected(answer, 10**9, 2 * 10**9, 64) is None
    assert reflected(answer[:41], 10**9, 2 * 10**9, 64) is None


@pytest.mark.parametrize("request_", [b"", b"hello", bytes(40), b"GREET/1 0123456789abcdef " + b" " * 1000])
def test_other_datagrams_are_not_answered(request_: bytes) -> None:
    assert reflected(request_, 1, 2, 64) is None


def test_time_stamps_are_those_of_ntp() -> None:
    assert ntp(0) == 2_208_988_800 << 32
    assert ntp(1_500_000_000) == 2_208_988_801 << 32 | 1 << 31
