"""What forged sources can have us send to their victims, and what they cost us."""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from greetsvc import wire

BUDGET = 1024
BURST = 4 * BUDGET
PREFIXES = 64
HEADERS = 28
NOISE = 12_000


class Forger:
    """One socket that sends from any address of 127.0.0.0/8, and hears what comes back to all of them."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        self.sock.bind(("", 0))
        self.to = ("127.0.0.1", port)
        self.bytes = 0

    def send(self, source: str, datagram: bytes) -> None:
        """``IP_PKTINFO`` chooses the source (ip(7))."""
        info = struct.pack("=I4s4s", 0, socket.inet_aton(source), bytes(4))
        self.sock.sendmsg((datagram,), ((socket.IPPROTO_IP, 8, info),), 0, self.to)

    def hear(self) -> None:
        """Count the bytes that came back, headers included."""
        while True:
            try:
                self.bytes += len(self.sock.recv(2000, socket.MSG_DONTWAIT)) + HEADERS
            except BlockingIOError:
                return

    def flood(self, sources: Iterable[str], rate: float) -> float:
        """Send an unmarked datagram from each source, at most ``rate`` a second; the seconds that took."""
        begun = time.monotonic()
        for number, source in enumerate(sources, 1):
            self.send(source, b"hello")
            if number % 64 == 0:
                self.hear()
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        time.sleep(0.2)
        self.hear()
        return time.monotonic() - begun


class Honest:
    """Sends marked requests from elsewhere, one after the other, until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = self.answered = 0
        self.going = True

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.200.0.1", 0))
            sock.connect(("127.0.0.1", self.port))
            sock.settimeout(1)
            while self.going:
                self.asked += 1
                sock.send(wire.request("0" * 16, 1200))
                try:
                    sock.recv(2000)
                    self.answered += 1
                except TimeoutError:  # the kernel's buffer was full
                    pass
                time.sleep(0.01)


def attack(server: Any, sources: Iterable[str], rate: float) -> tuple[float, int, Honest]:
    """Seconds, bytes drawn, and how the honest client fared."""
    (port,) = server.ports()
    forger, honest = Forger(port), Honest(port)
    with forger.sock, ThreadPoolExecutor(1) as pool:
        done = pool.submit(honest.run)
        try:
            took = forger.flood(sources, rate)
        finally:
            honest.going = False
        done.result(5)
    sys.stdout.write(
        f"{forger.bytes} bytes drawn in {took:.2f} s; {honest.answered} of {honest.asked} honest answered\n"
    )
    return took, forger.bytes, honest


def start(child: Any) -> Any:
    return child("--listen", "udp:0:interface=127.0.0.1", "--log-visits", "off")


def one_prefix(number: int) -> Iterable[str]:
    return (f"127.7.7.{each % 254 + 1}" for each in range(number))


def thousand_prefixes(number: int) -> Iterable[str]:
    return (f"127.{7 + each % 4}.{each // 4 % 250}.{each // 1000 % 254 + 1}" for each in range(number))


def test_one_prefix_draws_its_burst_and_its_budget_and_no_more(child: Any) -> None:
    took, drawn, honest = attack(start(child), one_prefix(NOISE), 20_000)
    assert BURST * 0.9 < drawn <= BURST + BUDGET * took
    assert honest.answered >= honest.asked * 0.95


@pytest.mark.lab
@pytest.mark.parametrize("sources", [one_prefix, thousand_prefixes])
def test_a_hundred_thousand_draw_no_more(child: Any, sources: Any) -> None:
    took, drawn, honest = attack(start(child), sources(100_000), 25_000)
    assert drawn <= (1 if sources is one_prefix else PREFIXES) * (BURST + BUDGET * took)
    assert honest.answered >= honest.asked * 0.95


@pytest.mark.lab
def test_a_walk_over_a_million_addresses_grows_no_memory(child: Any) -> None:
    server = start(child)
    (port,) = server.ports()
    forger = Forger(port)
    chance = random.Random(1)
    with forger.sock:

        def wander(number: int) -> None:
            forger.flood((f"127.{chance.randrange(256)}.{chance.randrange(256)}.9" for _ in range(number)), 40_000)

        wander(5_000)
        before = server.rss()
        wander(1_000_000)
        grown = server.rss() - before
    sys.stdout.write(f"{before} bytes resident, then {grown} more\n")
    assert grown < 256 * 1024
