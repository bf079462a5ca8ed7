"""Datagrams with forged sources, and an honest client beside them."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from greetsvc import wire
from tests.support.service import ask, bind_beside
from tests.support.waiting import PATIENCE

BUDGET = 1024
BURST = 4 * BUDGET
PREFIXES = 64
HEADERS = 28
MARKED = wire.request("0" * 16, 1200)


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

    def flood(self, sources: Iterable[str]) -> float:
        """Send an unmarked datagram from each source; the seconds that took.

        As fast as the service reads them, so that none is lost on the way.
        """
        begun = time.monotonic()
        for number, source in enumerate(sources, 1):
            self.send(source, b"hello")
            if number % 64 == 0:
                self._catch_up()
        self._catch_up()
        return time.monotonic() - begun

    def _catch_up(self) -> None:
        """Wait until the service has read all that was sent: it answers a request that comes now last."""
        ask("127.0.0.1", self.to[1], source="127.201.0.1", request=MARKED)
        self.hear()


class Honest:
    """Sends marked requests from elsewhere, one after the other, until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = self.answered = 0
        self.going = True

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            bind_beside(sock, "127.200.0.1", self.port)
            sock.connect(("127.0.0.1", self.port))
            sock.settimeout(2)
            while self.going:
                self.asked += 1
                sock.send(MARKED)
                try:
                    sock.recv(2000)
                    self.answered += 1
                except TimeoutError:  # the kernel's buffer was full
                    pass
                time.sleep(0.01)


def attack(server: Any, sources: Iterable[str]) -> tuple[float, int, Honest]:
    """Seconds, bytes drawn, and how the honest client fared."""
    (port,) = server.ports()
    forger, honest = Forger(port), Honest(port)
    with forger.sock, ThreadPoolExecutor(1) as pool:
        done = pool.submit(honest.run)
        try:
            took = forger.flood(sources)
        finally:
            honest.going = False
        done.result(PATIENCE)
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
