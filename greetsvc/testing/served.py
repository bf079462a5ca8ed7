"""The service in a process of its own, and sockets that talk to it."""

from __future__ import annotations

import json
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["DEADLINE", "Served", "exchange", "read_all", "read_exactly", "reset"]

DEADLINE = 1.0
"""The deadline of the service, in seconds."""

_PATIENCE = 20.0


class Served:
    """``greetsvc`` with a plugin on a TCP port of this machine."""

    def __init__(self, plugin: str, encoding: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="greetsvc-testing-"))
        settings = {
            "listen": ["tcp:0:interface=127.0.0.1"],
            "protocol": plugin,
            "encoding": encoding,
            "greeting": "Hello, {name}",
            "deadline": DEADLINE,
            "drain": 0,
        }
        # What JSON writes of texts, numbers and lists of texts is TOML as well.
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        config = self._folder / "settings.toml"
        config.write_text("".join(lines), "utf-8")
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "greetsvc", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._port = int(self._wait_for(r"Server start at port: (\d+)"))
        except BaseException:
            self.stop()
            raise

    def connect(self) -> socket.socket:
        """A connection, with a small receive buffer, so that a peer that does not read is noticed soon."""
        sock = socket.socket()
        sock.settimeout(_PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(("127.0.0.1", self._port))
        return sock

    def reload(self) -> None:
        """Have the settings read again, and wait until that is done."""
        done = r"(The settings were reloaded)"
        before = len(re.findall(done, self._said()))
        self._process.send_signal(signal.SIGHUP)
        self._wait_for(done, before + 1)

    def stop(self) -> None:
        """End the process, and remove its files."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def _wait_for(self, pattern: str, times: int = 1) -> str:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            found: list[str] = re.findall(pattern, self._said())
            if len(found) >= times:
                return found[-1]
            time.sleep(0.01)
        raise AssertionError(f"the service did not say {pattern!r}, but: {self._said()}")


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if the connection ends."""
    heard = bytearray()
    while len(heard) < size and (piece := sock.recv(size - len(heard))):
        heard += piece
    return bytes(heard)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the FIN. A reset raises `ConnectionResetError`."""
    heard = bytearray()
    while piece := sock.recv(65536):
        heard += piece
    return bytes(heard)


def exchange(sock: socket.socket, data: bytes, size: int) -> bytes:
    """Send without reading until nothing can be sent any more; then read as well, ``size`` bytes in all."""
    heard, unsent, slow = bytearray(), memoryview(data), True
    end = time.monotonic() + _PATIENCE
    while len(heard) < size and time.monotonic() < end:
        wants = [sock] if unsent else []
        readable, writable, _ = select.select([] if slow else [sock], wants, [], 0.05 if slow else 1)
        if writable:
            unsent = unsent[sock.send(unsent[:65536], socket.MSG_DONTWAIT) :]
        if readable:
            piece = sock.recv(65536)
            if not piece:
                break
            heard += piece
        if slow and not writable:
            slow = False
    return bytes(heard)


def reset(sock: socket.socket) -> None:
    """Close with a reset (SO_LINGER, socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
