"""The floor in Python: system calls in a loop, no framework. `python -m bench.servers.bare tcp|udp|udp-wildcard`."""

from __future__ import annotations

import select
import socket
import sys

from bench.servers import BACKLOG, GREETING, HOST, ready

IP_PKTINFO = 8  # the socket module has a name for it from Python 3.14 on


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


def udp_wildcard() -> None:
    """The same on every address, answering from the one that was asked."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    listener.bind(("", 0))
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ready(listener.getsockname()[1])
    receive, send = listener.recvmsg, listener.sendmsg
    answer = (GREETING,)
    while True:
        poll.poll()
        try:
            while True:
                _, ((level, kind, told),), _, address = receive(2048, 64)
                asked = told[8:]
                send(answer, ((level, kind, b"\0\0\0\0" + asked + asked),), 0, address)
        except BlockingIOError:
            pass


if __name__ == "__main__":
    {"tcp": tcp, "udp": udp, "udp-wildcard": udp_wildcard}[sys.argv[1]]()
