"""The floor in Python: a loop over system calls, and no framework. `python -m bench.servers.bare tcp|udp`."""

from __future__ import annotations

import select
import socket
import sys

from bench.servers import BACKLOG, GREETING, HOST, ready


def tcp() -> None:
    """Accept, send, close."""
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ready(listener.getsockname()[1])
    while True:
        poll.poll()
        try:
            while True:
                peer, _ = listener.accept()
                peer.send(GREETING)
                peer.close()
        except BlockingIOError:
            pass


def udp() -> None:
    """The same for datagrams."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((HOST, 0))
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ready(listener.getsockname()[1])
    receive, send = listener.recvfrom, listener.sendto
    while True:
        poll.poll()
        try:
            while True:
                _, address = receive(2048)
                send(GREETING, address)
        except BlockingIOError:
            pass


if __name__ == "__main__":
    {"tcp": tcp, "udp": udp}[sys.argv[1]]()
