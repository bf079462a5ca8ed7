"""SIGTERM: all who came in time are greeted, and nobody can keep the service from stopping."""

from __future__ import annotations

import re
import signal
import socket
from typing import Any

import pytest

from tests.support.service import ask

GREETING = b"Thank you for connecting\r\n"
HEADER = b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 80\r\n"
LISTEN = ("--listen", "tcp:0:interface=127.0.0.1")


def test_visitors_in_the_accept_queue_are_greeted_on_stop(child: Any, visitor: Any) -> None:
    server = child(*LISTEN)
    (port,) = server.ports()
    # The log says so before signals are handled; a visit shows that they are.
    assert visitor.visit(port) == GREETING
    server.send_signal(signal.SIGSTOP)
    waiting = [visitor.connect(port) for _ in range(300)]
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    assert [visitor.read(sock) for sock in waiting] == [GREETING] * 300
    assert server.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        visitor.connect(port)


def test_open_connections_may_finish(child: Any, visitor: Any, megabyte: str) -> None:
    server = child(*LISTEN, "--greeter", megabyte, "--drain", "600", "--deadline", "600")
    (port,) = server.ports()
    reading = visitor.connect(port, window=4096)
    server.wait_for("Got a connection")
    server.send_signal(signal.SIGTERM)
    server.wait_for("Stopping: 1 open connection")
    with pytest.raises(ConnectionRefusedError):
        visitor.connect(port)
    assert len(visitor.read(reading)) == 1_000_000
    # It ends with the last connection: nobody waits for the ten minutes of the drain.
    assert server.wait() == 0
    assert "Ending" not in server.said()


def test_connections_that_outlast_the_drain_are_cut_off(child: Any, visitor: Any, megabyte: str) -> None:
    server = child(*LISTEN, "--greeter", megabyte, "--drain", "0.3")
    (port,) = server.ports()
    stuck = visitor.connect(port, window=4096)
    server.wait_for("Got a connection")
    assert server.stop() == 0
    assert len(visitor.read(stuck)) < 1_000_000
    assert server.said().index("Stopping: 1 open connection") < server.said().index("Ending 1 open connection")


def test_workers_tell_what_becomes_of_their_connections(child: Any, visitor: Any, megabyte: str) -> None:
    server = child(*LISTEN, "--greeter", megabyte, "--drain", "0.3", "--workers", "2", command=("-m", "greetsvc"))
    (port,) = server.ports()
    stuck = visitor.connect(port, window=4096)
    server.wait_for("Got a connection")
    assert server.stop() == 0
    assert len(visitor.read(stuck)) < 1_000_000
    said = server.said()
    (stopping,) = re.findall(r"Stopping: 1 open connection of worker ([12]) has 0\.3 s to end", said)
    assert said.count(f"Ending 1 open connection of worker {stopping}") == said.count("Ending") == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(child: Any, visitor: Any, megabyte: str, second: int) -> None:
    server = child(*LISTEN, "--greeter", megabyte, "--drain", "600", "--deadline", "600")
    (port,) = server.ports()
    visitor.connect(port, window=4096)
    server.wait_for("Got a connection")
    server.send_signal(signal.SIGTERM)
    server.wait_for("Stopping: 1 open connection")
    # Within what `stop` waits, and that is far less than the ten minutes of the drain.
    assert server.stop(second) == 0


def test_datagrams_that_have_arrived_are_answered(child: Any) -> None:
    server = child("--listen", "udp:0:interface=127.0.0.1")
    (port,) = server.ports()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        assert ask("127.0.0.1", port) == GREETING
        server.send_signal(signal.SIGSTOP)
        for _ in range(5):
            sock.sendto(b"hello", ("127.0.0.1", port))
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGCONT)
        assert [sock.recv(100) for _ in range(5)] == [GREETING] * 5
    assert server.wait() == 0


def test_a_killed_service_is_started_again_on_the_same_port(child: Any, visitor: Any, megabyte: str) -> None:
    server = child(*LISTEN, "--greeter", megabyte)
    (port,) = server.ports()
    cut = visitor.connect(port, window=4096)
    assert len(cut.recv(1000)) > 0
    server.send_signal(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    assert len(visitor.read(cut)) < 1_000_000
    again = child("--listen", f"tcp:{port}:interface=127.0.0.1")
    again.ports()
    assert visitor.visit(port) == GREETING
    assert again.stop() == 0


def test_visitors_in_the_accept_queue_behind_a_proxy_are_greeted_on_stop(child: Any, visitor: Any) -> None:
    server = child("--listen", "proxy:tcp:0:interface=127.0.0.1")
    (port,) = server.ports()
    assert visitor.visit(port, said=HEADER) == GREETING
    server.send_signal(signal.SIGSTOP)
    waiting = [visitor.connect(port) for _ in range(50)]
    for sock in waiting:
        sock.sendall(HEADER)
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    assert [visitor.read(sock) for sock in waiting] == [GREETING] * 50
    assert server.wait() == 0
