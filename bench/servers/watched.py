"""greetsvc with an admin site that 200 watch; half of them do not read. `python -m bench.servers.watched`."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from pathlib import Path

from bench.servers import HOST

WATCHERS = 200
PATIENCE = 15.0
REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main() -> None:
    """Take a port that is free, leave the watchers to another process, and become greetsvc."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    if not os.fork():
        watch(port)
        os._exit(0)
    command = str(Path(sys.executable).with_name("twistd"))
    listen = ("--listen", f"tcp:0:interface={HOST}")
    os.execv(command, [command, "-n", "--pidfile=", "greetsvc", *listen, "--admin", f"tcp:{port}"])


def watch(port: int) -> None:
    """Watch until the service ends."""
    end = time.monotonic() + PATIENCE
    selector = selectors.DefaultSelector()
    kept: list[socket.socket] = []
    while len(kept) < WATCHERS and time.monotonic() < end:
        try:
            sock = socket.create_connection((HOST, port))
        except OSError:
            time.sleep(0.05)
            continue
        sock.sendall(REQUEST)
        kept.append(sock)
        if len(kept) % 2:
            selector.register(sock, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj  # type: ignore[assignment]
            try:
                if not sock.recv(65536):
                    return
            except OSError:
                return


if __name__ == "__main__":
    main()
