"""A flood of datagrams leaves connections their turn."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

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


@pytest.mark.parametrize("size", [0, 1200])
def test_greetings_over_tcp_go_on_in_a_flood(child: Any, honest: Any, cores: Any, size: int) -> None:
    """The best of three rounds counts: what else this machine does is not ours to judge."""
    loopback = "interface=127.0.0.1"
    server = child("--listen", f"tcp:0:{loopback}", "--listen", f"udp:0:{loopback}", "--log-visits", "off")
    tcp, udp = server.ports(2)
    os.sched_setaffinity(server.process.pid, {cores[0]})
    quiet = honest(tcp, 1)
    rounds = []
    for _ in range(ROUNDS):
        with subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(udp), str(size), "4", str(cores[1])],
            stdout=subprocess.PIPE,
            text=True,
        ) as flood:
            greeted = honest(tcp, 3)
            sent = int(flood.communicate(timeout=20)[0])
        rounds.append(greeted)
        sys.stdout.write(f"{size} bytes, {sent} a second: {greeted}; before: {quiet}\n")
        assert greeted.missed == 0
        if greeted.p(0.99) <= 0.05:
            break
    assert min(each.p(0.99) for each in rounds) <= 0.05
    assert server.stop() == 0
