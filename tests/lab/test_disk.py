"""A log on a disk that fills up and is emptied again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

GREETING = b"Thank you for connecting\r\n"
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "small_disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_the_log_goes_on_when_the_disk_has_room_again(child: Any, visitor: Any, small_disk: Path) -> None:
    log = small_disk / "log"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(60_000))
    options = ("-n", "--pidfile=", "-l", str(log), "greetsvc", "--listen", "tcp:0:interface=127.0.0.1")
    server = child(*options, command=TWISTD)
    (port,) = wait_until(server.listening)

    def visit_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert visitor.visit(port) == GREETING
            time.sleep(0.02)

    visit_for(1.5)
    assert os.statvfs(small_disk).f_bavail == 0
    size = log.stat().st_size
    visit_for(1)
    # A full disk still takes what fits into the last block that the log has.
    assert log.stat().st_size <= size + -size % os.statvfs(small_disk).f_bsize
    filler.unlink()
    full = log.stat().st_size
    visit_for(1.5)
    assert log.stat().st_size > full
    assert "Traceback" not in log.read_text()
    assert server.stop() == -15
