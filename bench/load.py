"""The load generator for machines without a C compiler: what load.c does, on the same command line, but slower.

Only the visits in the measured window are counted; the processor time of the server comes from its clock.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections import Counter, deque

from attrs import define

from bench.plan import SOURCES

UDP_IN_FLIGHT = 128
PATIENCE = {"tcp": 20.0, "udp": 0.25, "hold": 20.0}


@define(eq=False)
class Visit:
    """One peer's visit: since when, in seconds, and what it got so far."""

    peer: socket.socket
    since: float
    got: bytes = b""
    waiting: bool = True


def options(words: list[str]) -> argparse.Namespace:
    """What load.c understands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=list(PATIENCE))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("peers", type=int)
    for name in ("seconds", "warm", "rate", "stay"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--pid", type=lambda text: [int(each) for each in text.split(",")], default=[])
    parser.add_argument("--sources", type=int, default=SOURCES)
    parser.add_argument("--expect", default="")
    parser.add_argument("--begins", default="")
    parser.add_argument("--request", default="")
    return parser.parse_args(words)


class Load:
    """The peers, and what they saw."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.expected = (chosen.expect or chosen.begins).encode("ascii")
        self.datagrams = chosen.mode == "udp"
        self.seen: Counter[str] = Counter()
        self.latency: Counter[int] = Counter()
        self.poll = select.epoll()
        self.visits: dict[int, Visit] = {}
        self.idle: deque[socket.socket | None] = deque()
        self.staying: deque[Visit] = deque()
        self.in_flight = 0
        self.limit = min(chosen.peers, UDP_IN_FLIGHT) if chosen.mode != "tcp" else chosen.peers
        self.serial = 0
        self.idled = 0.0
        for _ in range(chosen.peers):
            self.idle.append(self.opened(socket.SOCK_DGRAM) if self.datagrams else None)

    def opened(self, kind: int) -> socket.socket:
        """A connected socket from the next source address."""
        peer = socket.socket(socket.AF_INET, kind)
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT, which the module has no name for
        peer.bind((f"127.0.1.{1 + self.serial % self.chosen.sources}", 0))
        self.serial += 1
        peer.connect_ex((self.chosen.host, self.chosen.port))
        self.poll.register(peer, select.EPOLLIN | select.EPOLLRDHUP)
        return peer

    def begin(self, since: float) -> None:
        """The next idle peer asks."""
        peer = self.idle.popleft() or self.opened(socket.SOCK_STREAM)
        self.visits[peer.fileno()] = Visit(peer, since)
        self.in_flight += 1
        if self.datagrams:
            peer.send(self.chosen.request.encode("ascii"))

    def finish(self, visit: Visit, how: str, now: float) -> None:
        """A visit ended, and the peer may stay a while."""
        self.in_flight -= 1
        self.seen[how] += 1
        visit.waiting = False
        if how == "greeted" and self.chosen.stay:
            self.poll.unregister(visit.peer)
            visit.since = now + self.chosen.stay
            self.staying.append(visit)
        else:
            self.rest(visit)

    def rest(self, visit: Visit) -> None:
        """The peer is free for another visit."""
        if not self.datagrams:
            del self.visits[visit.peer.fileno()]
            visit.peer.close()
        self.idle.append(visit.peer if self.datagrams else None)

    def is_right(self, got: bytes) -> bool:
        """Whether an answer is what was expected; it may go on behind what it has to begin with."""
        return got.startswith(self.expected) if self.chosen.begins else got == self.expected

    def readable(self, number: int, now: float) -> None:
        """Something came, or the server closed."""
        visit = self.visits.get(number)
        if visit is None or not visit.waiting:
            return
        try:
            data = visit.peer.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            self.finish(visit, "reset", now)
            return
        if data and not visit.got:
            self.latency[int((now - visit.since) * 1e6) * 1000] += 1
        visit.got += data
        if self.datagrams or not data:
            self.finish(visit, "greeted" if self.is_right(visit.got) else "wrong", now)

    def turn(self) -> float:
        """Handle what has happened, without sleeping; returns the time."""
        asked = time.monotonic()
        ready = self.poll.poll(0)
        now = time.monotonic()
        if not ready:
            self.idled += now - asked
        for number, _ in ready:
            self.readable(number, now)
        return now

    def give_up(self, now: float) -> None:
        """On visits that nobody answers."""
        patience = PATIENCE[self.chosen.mode]
        for visit in [visit for visit in self.visits.values() if visit.waiting and now - visit.since > patience]:
            self.finish(visit, "lost", now)

    def start_due(self, now: float, due: float) -> float:
        """Begin what has to begin by now; returns when the next visit is due."""
        while self.staying and self.staying[0].since <= now:
            self.rest(self.staying.popleft())
        if not self.chosen.rate:
            while self.idle and self.in_flight < self.limit:
                self.begin(time.monotonic())
            return due
        while due <= now:
            if self.idle:
                self.begin(due)
            else:
                self.seen["late"] += 1
            due += 1 / self.chosen.rate
        return due

    def server_time(self) -> float:
        """Processor time of the server so far, all its processes together."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.chosen.pid)

    def run(self) -> dict[str, object]:
        """The whole turn."""
        due = checked = now = time.monotonic()
        starts = now + self.chosen.warm
        ends = starts + self.chosen.seconds
        began = server = 0.0
        while now < ends:
            due = self.start_due(now, due)
            now = self.turn()
            if now - checked > PATIENCE["udp"]:
                checked = now
                self.give_up(now)
            if not began and now >= starts:
                self.seen.clear()
                self.latency.clear()
                server = self.server_time()
                self.idled = 0.0
                began = time.monotonic()
        took = time.monotonic() - began
        return {
            "seconds": took,
            **{how: self.seen[how] for how in ("greeted", "reset", "lost", "wrong", "late")},
            "server_cpu": self.server_time() - server,
            "load_busy": took - self.idled,
            "latency": sorted(self.latency.items()),
        }

    def hold(self) -> int:
        """Connect everybody, in bounded steps, and keep them; returns how many were greeted."""
        kept = 0
        until = time.monotonic() + PATIENCE["hold"]
        while kept < self.chosen.peers and time.monotonic() < until:
            while self.idle and self.in_flight < self.limit:
                self.begin(0)
            for number, _ in self.poll.poll(0.05):
                self.poll.unregister(number)
                self.in_flight -= 1
                kept += 1
        return kept


def main(words: list[str]) -> None:
    """Run, and print one line of JSON."""
    load = Load(options(words))
    if load.chosen.mode != "hold":
        print(json.dumps(load.run()))
        return
    print(json.dumps({"held": load.hold()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
