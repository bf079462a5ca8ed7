"""The program greets and probes itself on one event loop, and ends when it is told to."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 10.0


def test_it_greets_others_and_itself_and_stops(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = str(Path(sys.executable).with_name("greet-in-asyncio"))
    with (
        log.open("w") as output,
        subprocess.Popen([program, "tcp:0:interface=127.0.0.1"], stdout=output, stderr=output) as running,
    ):
        end = time.monotonic() + SECONDS
        while "Hello from asyncio, 127.0.0.1 (" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        port = int(log.read_text().partition("Server start at port: ")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port), SECONDS) as peer, peer.makefile("rb") as stream:
            assert stream.read() == b"Hello from asyncio, 127.0.0.1"
        running.terminate()
        assert running.wait(SECONDS) == 0
    assert "Traceback" not in log.read_text()
