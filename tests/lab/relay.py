"""A UDP relay on 127.0.0.1 that loses, doubles, holds back or delays datagrams of each direction by a pattern.

    python relay.py PORT TO there=lose:0.3 back=double:0.05,seed:7

What happens to a datagram depends on its number in its direction and on the seed alone. ``lose``, ``double`` and
``hold`` are shares; a datagram that is held leaves behind the next one of its direction. ``delay`` is in
milliseconds. It says "ready" when it relays, and when it is ended prints what it did, as JSON.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any


class Way:
    """One direction."""

    def __init__(self, words: str) -> None:
        given = dict(word.split(":") for word in words.split(",") if word)
        self.seed = int(given.pop("seed", 1))
        self.delay = float(given.pop("delay", 0)) / 1000
        self.shares = {name: float(share) for name, share in given.items()}
        self.counts = dict.fromkeys(("all", "lose", "double", "hold"), 0)
        self.held: list[Callable[[], object]] = []

    def relay(self, send: Callable[[], object], later: Callable[[float, Callable[[], object]], None]) -> None:
        """Do to a datagram what its number says; ``send`` sends it on."""
        chance = random.Random(f"{self.seed} {self.counts['all']}").random()
        self.counts["all"] += 1
        fate = ""
        for name, share in self.shares.items():
            if 0 <= chance < share:
                fate = name
            chance -= share
        if fate:
            self.counts[fate] += 1
        if fate == "hold":
            self.held.append(send)
            return
        waiting, self.held = self.held, []
        copies = {"lose": 0, "double": 2}.get(fate, 1)
        for one in [*[send] * copies, *waiting]:
            if self.delay:
                later(self.delay, one)
            else:
                one()


def say(words: str) -> None:
    """A line on standard output, now."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> None:
    """Relay until the end."""
    port, to = int(sys.argv[1]), int(sys.argv[2])
    ways = {"there": Way(""), "back": Way("")}
    for word in sys.argv[3:]:
        name, _, words = word.partition("=")
        ways[name] = Way(words)

    def end(*_: object) -> None:
        say(json.dumps({name: way.counts for name, way in ways.items()}))
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("127.0.0.1", port))
    poll = select.epoll()
    poll.register(front, select.EPOLLIN)
    by_client: dict[Any, socket.socket] = {}
    clients: dict[int, tuple[socket.socket, Any]] = {}
    waiting: list[tuple[float, int, Callable[[], object]]] = []

    def later(delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(waiting, (time.monotonic() + delay, id(action), action))

    say("ready")
    while True:
        for fd, _ in poll.poll(max(0.0, waiting[0][0] - time.monotonic()) if waiting else -1):
            if fd == front.fileno():
                data, client = front.recvfrom(9000)
                if client not in by_client:
                    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    own.connect(("127.0.0.1", to))
                    poll.register(own, select.EPOLLIN)
                    by_client[client], clients[own.fileno()] = own, (own, client)
                ways["there"].relay(partial(by_client[client].send, data), later)
            else:
                own, client = clients[fd]
                try:
                    data = own.recv(9000)
                except ConnectionRefusedError:
                    continue
                ways["back"].relay(partial(front.sendto, data, client), later)
        while waiting and waiting[0][0] <= time.monotonic():
            heapq.heappop(waiting)[2]()


if __name__ == "__main__":
    main()
