"""Servers to be greeted by: blocking ones, as in a socket tutorial, each in a thread, as strange as a test wants."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from threading import Event, Thread, Timer
from typing import Any

import pytest
from attrs import define, field

from tests.support.waiting import wait_until

Says = Callable[[socket.socket], None]
Answers = Callable[[socket.socket, bytes, Any], None]


@define
class Peers:
    """Starts peers; each method gives the target that `greet` is to be given."""

    over: Event = field(factory=Event)
    sockets: list[socket.socket] = field(factory=list)
    threads: list[Thread] = field(factory=list)

    def stream(self, says: Says, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> str:
        """A peer that accepts, one at a time, and hands the connection to ``says``, then closes it."""
        if path is None:
            listener = socket.create_server(("127.0.0.1", 0))
            target = f"127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            target = f"unix:{path}"
        self._start(listener, lambda: self._accept(listener, says, tls))
        return f"tls:{target}" if tls else target

    def datagram(self, answers: Answers, *, path: Path | None = None, family: int = socket.AF_INET) -> str:
        """A peer that hands each request to ``answers``."""
        if path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(str(path))
            target = f"unixgram:{path}"
        else:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            host, port, *_ = sock.getsockname()
            target = f"udp:[{host}]:{port}" if family == socket.AF_INET6 else f"udp:{host}:{port}"
        self._start(sock, lambda: self._receive(sock, answers))
        return target

    def later(self, *delays: float) -> Answers:
        """Answers each request once for each of ``delays``, so many seconds later."""

        def send(sock: socket.socket, sender: Any) -> None:
            with suppress(OSError):
                sock.sendto(b"hello\r\n", sender)

        def answers(sock: socket.socket, _: bytes, sender: Any) -> None:
            for delay in delays:
                timer = Timer(delay, send, (sock, sender))
                timer.daemon = True
                timer.start()

        return answers

    def hold(self, *_: object) -> None:
        """Do nothing until the test is over."""
        self.over.wait(30)

    def stop(self) -> None:
        """Stop them all."""
        self.over.set()
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        for sock in self.sockets:
            sock.close()

    def _start(self, sock: socket.socket, work: Callable[[], None]) -> None:
        sock.settimeout(0.2)
        self.sockets.append(sock)
        thread = Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, says: Says, tls: ssl.SSLContext | None) -> None:
        while not self.over.is_set():
            try:
                bare, _ = listener.accept()
            except OSError:
                continue
            bare.settimeout(10)
            with bare, suppress(OSError):
                if tls is None:
                    says(bare)
                    continue
                with tls.wrap_socket(bare, server_side=True) as connection:
                    says(connection)

    def _receive(self, sock: socket.socket, answers: Answers) -> None:
        while not self.over.is_set():
            with suppress(OSError):
                data, sender = sock.recvfrom(65535)
                answers(sock, data, sender)


def until_read(connection: socket.socket) -> None:
    """Wait until the peer, of this host and over IPv4, has read everything: a RST discards what it has not."""
    ours, theirs = (f":{name[1]:04X}" for name in (connection.getsockname(), connection.getpeername()))

    def is_read() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()]
        queues = [row[4] for row in rows if row[1].endswith(theirs) and row[2].endswith(ours)]
        return all(queue.endswith(":00000000") for queue in queues)

    if sys.platform == "linux":
        wait_until(is_read, "the peer does not read")
    else:
        time.sleep(0.05)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """The peers of one test."""
    started = Peers()
    yield started
    started.stop()


@pytest.fixture
def greets_once() -> Says:
    """Greet and close with a FIN: a close with unread data would send a RST."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"Thank you\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass

    return greet


@pytest.fixture
def reset() -> Says:
    """Close with a RST."""

    def close(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return close


@pytest.fixture
def free_port() -> int:
    """A port that nothing uses, and that no test running beside this one is given.

    It is below those that the kernel hands out for port 0 and for outgoing connections: 32768 and up on Linux
    (ip_local_port_range), 49152 and up on macOS.
    """
    while True:
        port = SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram, suppress(OSError):
            stream.bind(("", port))
            datagram.bind(("", port))
            return port
