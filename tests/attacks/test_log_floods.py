"""No peer can fill the log: a line for each byte is a line for few of them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from greetsvc.daemon.logs import LINES
from tests.support.waiting import wait_until

GREETING = b"Thank you for connecting\r\n"
HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.2 65000 8088"


def _bytes_with_descriptors(path: str, connections: int, each: int) -> int:
    """Send a PROXY header byte by byte, with descriptors at each; returns how many bytes were sent."""
    sent = 0
    with Path(os.devnull).open("rb") as null:
        descriptors = [null.fileno()] * each
        for _ in range(connections):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(path)
                for byte in HEADER:
                    socket.send_fds(peer, [bytes([byte])], descriptors)
                    sent += 1
    return sent


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("each", [1, 100])
def test_descriptors_attached_to_each_byte_do_not_fill_the_log(
    child: Any, tmp_path: Path, form: str, each: int
) -> None:
    path = str(tmp_path / "x")
    server = child("--listen", f"proxy:unix:{path}", "--log-visits", "off", "--log-format", form)
    server.wait_for("Server start at path: ")
    wait_until(server.asleep)
    idle, began = server.descriptors(), time.monotonic()
    sent = _bytes_with_descriptors(path, 60, each)
    # All are read, and closed: none is open any more when the last connection is gone.
    wait_until(lambda: server.descriptors() <= idle, lambda: f"{server.descriptors()} descriptors, not {idle}")
    seconds = time.monotonic() - began
    assert server.stop() == 0
    lines = [line for line in server.said().splitlines() if "IFileDescriptorReceiver" in line]
    kept = [line for line in lines if "Left out" not in line]
    assert len(kept) <= LINES * (seconds + 2) < sent
    assert len(lines) - len(kept) <= seconds + 2
    left_out = [json.loads(line)["count"] for line in lines if form == "json" and "Left out" in line]
    assert form == "text" or sum(left_out) + len(kept) <= sent
    assert "Left out" in server.said()


def test_descriptors_that_are_sent_to_a_socket_that_greets_are_closed(child: Any, tmp_path: Path) -> None:
    path, own = str(tmp_path / "x"), str(tmp_path / "own")
    server = child("--listen", f"unix:{path}", "--listen", f"unixgram:{path}2", "--log-visits", "off")
    server.wait_for("Server start at path: ", 2)
    wait_until(server.asleep)
    idle = server.descriptors() + 1  # lingering sockets have one to be watched with
    with Path(os.devnull).open("rb") as null, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.bind(own)
        sender.settimeout(10)
        for _ in range(30):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(path)
                socket.send_fds(peer, [b"x"], [null.fileno()] * 200)
                assert peer.recv(100) == GREETING
            sender.connect(f"{path}2")
            socket.send_fds(sender, [b"x"], [null.fileno()] * 200)
    wait_until(lambda: server.descriptors() <= idle, lambda: f"{server.descriptors()} descriptors, not {idle}")
    assert server.stop() == 0


def test_the_log_of_twist_is_limited_too(child: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    command = ("-m", "twisted.application.twist", "--log-format", "text", "greetsvc")
    program = "from twisted.application.twist._twist import Twist; Twist.main()"
    server = child(*command[2:], "--listen", f"proxy:unix:{path}", "--log-visits", "off", command=("-c", program))
    server.wait_for("Server start at path: ")
    began = time.monotonic()
    sent = _bytes_with_descriptors(path, 60, 1)
    server.wait_for("Left out ")
    seconds = time.monotonic() - began
    kept = server.said().count("IFileDescriptorReceiver")
    assert kept <= (LINES + 1) * (seconds + 2) < sent
    server.stop()
