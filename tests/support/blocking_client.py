"""Visits a service with blocking sockets until its standard input ends, and counts: nothing of greetsvc is in it.

Each argument is a target: ``tcp 127.0.0.1 8088``, ``udp 127.0.0.1 8088``, ``unix PATH`` or ``tls 127.0.0.1 8443 CA``.
Prints one line of JSON: what was greeted by transport, and why the others were not.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter

THREADS = 4  # for each target: one that has to wait does not hold up the others
PAUSE = {"tls": 0.1}
USUAL_PAUSE = 0.02
PATIENCE = 15.0
REQUEST = b"GREET/1 0123456789abcdef " + bytes(200)


def visit(kind: str, *place: str) -> bytes:
    """One greeting, to its end."""
    if kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(PATIENCE)
            asker.connect((place[0], int(place[1])))
            asker.send(REQUEST)
            return asker.recv(2000)
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(place[0] if kind == "unix" else (place[0], int(place[1])))
        if kind != "tls":
            return read(peer)
        with ssl.create_default_context(cafile=place[2]).wrap_socket(peer, server_hostname="localhost") as secured:
            return read(secured)


def read(peer: socket.socket) -> bytes:
    """What comes until the end."""
    said = b""
    while part := peer.recv(2000):
        said += part
    return said


def main() -> None:
    """Visit all targets at the same time."""
    greeted: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def work(kind: str, *place: str) -> None:
        while not stop.is_set():
            try:
                said, why = visit(kind, *place), "nothing came"
            except OSError as error:
                said, why = b"", repr(error)
            with lock:
                if said:
                    greeted[kind] += 1
                else:
                    lost[f"{kind}: {why}"] += 1
            time.sleep(PAUSE.get(kind, USUAL_PAUSE))

    threads = [threading.Thread(target=work, args=target.split()) for target in sys.argv[1:] for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps({"greeted": greeted, "lost": lost}) + "\n")


if __name__ == "__main__":
    main()
