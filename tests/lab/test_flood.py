"""A flood of datagrams leaves connections their turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.alone

# Sixty-four datagrams with each call (sendmmsg(2)), again and again.
FLOOD = """
import ctypes, os, socket, sys, time
port, size, seconds, core = (int(word) for word in sys.argv[1:])
os.sched_setaffinity(0, {core})
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("pieces", ctypes.POINTER(Piece)),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int), ("sent", ctypes.c_uint),
    ]
data = ctypes.create_string_buffer(max(size, 1))
piece = Piece(ctypes.addressof(data), size)
messages = (Message * 64)(*(Message(None, 0, ctypes.pointer(piece), 1) for _ in range(64)))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", port))
send, fd, count, begun = ctypes.CDLL(None).sendmmsg, sock.fileno(), 0, time.monotonic()
while time.monotonic() < begun + seconds:
    count += max(send(fd, messages, 64, 0), 0)
print(int(count / (time.monotonic() - begun)))
"""
ROUNDS = 3


@pytest.fixture
def cores() -> tuple[int, int]:
    """A processor core for the server, and another for the flood, where there are two."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[0], ours[-1]


@contextmanager
def flooding(port: int, size: int, seconds: int, core: int) -> Iterator[subprocess.Popen[str]]:
    """Another process floods the port meanwhile, and says at its end how many it sent a second."""
    command = [sys.executable, "-c", FLOOD, str(port), str(size), str(seconds), str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:
        yield flood
        flood.kill()


@pytest.mark.parametrize("size", [0, 1200])
def test_tcp_visitors_are_greeted_during_a_flood_of_datagrams(child: Any, honest: Any, cores: Any, size: int) -> None:
    """The best of three rounds counts: what else this machine does is not ours to judge."""
    loopback = "interface=127.0.0.1"
    server = child("--listen", f"tcp:0:{loopback}", "--listen", f"udp:0:{loopback}", "--log-visits", "off")
    tcp, udp = server.ports(2)
    os.sched_setaffinity(server.pid, {cores[0]})
    quiet = honest(tcp, 1)
    rounds = []
    for _ in range(ROUNDS):
        with flooding(udp, size, 4, cores[1]) as flood:
            greeted = honest(tcp, 3)
            sent = int(flood.communicate(timeout=20)[0])
        rounds.append(greeted)
        sys.stdout.write(f"{size} bytes, {sent} a second: {greeted}; before: {quiet}\n")
        assert greeted.missed == 0
        if greeted.p(0.99) <= 0.05:
            break
    assert min(each.p(0.99) for each in rounds) <= 0.05
    assert server.stop() == 0


def test_the_service_stops_during_a_flood(child: Any, cores: Any) -> None:
    server = child("--listen", "udp:0:interface=127.0.0.1", "--log-visits", "off")
    (udp,) = server.ports()
    with flooding(udp, 0, 20, cores[1]):
        time.sleep(1)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 3
