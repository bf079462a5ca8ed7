"""The tutorial's server: one client at a time, a line for each. `python -m bench.servers.tutorial tcp|udp`."""

from __future__ import annotations

import socket
import sys

from bench.servers import GREETING, HOST, ready


def tcp() -> None:
    """Accept, print, send, close; with the tutorial's backlog of 5."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(5)
    ready(listener.getsockname()[1])
    while True:
        peer, address = listener.accept()
        print(f"Got a connection from {address}")
        peer.send(GREETING)
        peer.close()


def udp() -> None:
    """The same for datagrams."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((HOST, 0))
    ready(listener.getsockname()[1])
    while True:
        _, address = listener.recvfrom(2048)
        print(f"Got a request from {address}")
        listener.sendto(GREETING, address)


if __name__ == "__main__":
    {"tcp": tcp, "udp": udp}[sys.argv[1]]()
