"""The service goes on after resets, without descriptors, and when the clock is set."""

from __future__ import annotations

import resource
import signal
import socket
import struct
from typing import Any

from tests.support.waiting import wait_until

GREETING = b"Thank you for connecting\r\n"
RESET = struct.pack("ii", 1, 0)
LOOPBACK = "interface=127.0.0.1"

# As a machine whose clock is set an hour back, and another two hours forward.
JUMPING = """
import signal, time
real, jump = time.time, 0.0
def move(seconds):
    global jump
    jump += seconds
time.time = lambda: real() + jump
signal.signal(signal.SIGUSR2, lambda *_: move(-3600))
signal.signal(signal.SIGRTMIN, lambda *_: move(7200))
from greetsvc.daemon.command import main
main()
"""


def at_rest(child: Any) -> int:
    """How many descriptors the service has with no visitor, and one more: to watch lingering sockets with."""
    wait_until(child.asleep)
    return int(child.descriptors()) + 1


def settled(child: Any, descriptors: int) -> None:
    """Wait until the child has no more than so many descriptors."""
    wait_until(
        lambda: child.descriptors() <= descriptors, lambda: f"{child.descriptors()} descriptors, not {descriptors}"
    )


def test_deadlines_hold_when_the_clock_is_set(child: Any, visitor: Any, megabyte: str) -> None:
    options = ("--listen", f"tcp:0:{LOOPBACK}", "--greeter", megabyte, "--deadline", "1", "--linger", "0.3")
    servers = {jump: child(*options, command=("-c", JUMPING)) for jump in (signal.SIGUSR2, signal.SIGRTMIN)}
    idle = {}
    for jump, server in servers.items():
        (port,) = server.ports()
        idle[jump] = at_rest(server)
        # Half of these are lingered for, the others have most of their greeting still to read.
        for number in range(40):
            visitor.connect(port, window=4096 * (number % 2))
        server.wait_for("Got a connection from", 20)
        slow = visitor.connect(port, window=4096)
        assert slow.recv(1)
        server.send_signal(jump)
        # Not cut short: this visit shows that the service has gone on since the jump, and the slow one is whole.
        assert len(visitor.visit(port)) == 1_000_000
        assert len(visitor.read(slow)) == 999_999
    for jump, server in servers.items():
        # And nobody is held for the hour that the clock went back.
        settled(server, idle[jump])
        assert server.stop() == 0


def test_resets_during_the_greeting_leave_no_descriptor_open(child: Any, visitor: Any, megabyte: str) -> None:
    server = child("--listen", f"tcp:0:{LOOPBACK}", "--greeter", megabyte, "--log-visits", "off")
    (port,) = server.ports()
    idle = at_rest(server)
    for number in range(300):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.connect(("127.0.0.1", port))
            if number % 3:
                sock.recv(1 + number)
    settled(server, idle)
    assert server.stop() == 0


def test_the_listener_goes_on_when_there_are_no_descriptors(child: Any, visitor: Any, megabyte: str) -> None:
    """New visitors are closed at once, at most one line a second says so, and the service does not spin."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    server = child(
        *("--listen", f"tcp:0:{LOOPBACK}", "--listen", f"udp:0:{LOOPBACK}", "--greeter", megabyte),
        *("--max-connections", "1000", "--deadline", "2", "--log-visits", "off"),
        preexec_fn=few,
    )
    tcp, _udp = server.ports(2)
    held = [visitor.connect(tcp, window=4096) for _ in range(100)]
    assert visitor.read(held[-1]) == b""
    server.wait_for("Cannot accept connections")
    wait_until(server.asleep)
    # The deadline frees descriptors; then all is as before.
    wait_until(lambda: visitor.visit(tcp))
    assert server.stop() == 0
    seconds = [line.partition(" ")[0] for line in server.said().splitlines() if "Cannot accept connections" in line]
    assert len(set(seconds)) == len(seconds)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_lingering_connections_are_closed_when_there_are_no_descriptors(
    child: Any, visitor: Any, megabyte: str
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    server = child(
        *("--listen", f"tcp:0:{LOOPBACK}", "--greeter", megabyte, "--max-connections", "1000"),
        *("--deadline", "600", "--linger", "0.3", "--log-visits", "off"),
        preexec_fn=few,
    )
    (port,) = server.ports()
    idle = at_rest(server)
    held = [visitor.connect(port, window=4096) for _ in range(70)]
    # They are taken in turn: when the last is turned away, nobody is in the queue any more.
    assert visitor.read(held[-1]) == b""
    server.wait_for("Cannot accept connections")
    for sock in held[:10]:
        left = 1_000_000
        while left:
            left -= len(sock.recv(left))
    settled(server, 60 - 10)  # it had all 60, but for the moment in which it turns somebody away
    assert len(visitor.visit(port)) == 1_000_000
    for sock in held:
        sock.close()
    settled(server, idle)
    assert server.stop() == 0
