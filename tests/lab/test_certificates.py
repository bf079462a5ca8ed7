"""Hundreds of certificates that are read again do not hold visitors up."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import issue
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

pytestmark = pytest.mark.lab

MANY = 800
LONGEST = 0.4
"""Seconds for a visit meanwhile. It took 0.6 to 2.4 s when the files were read in the reactor's thread."""


def fill(folder: Path) -> None:
    """Certificates for as many names, in a folder."""
    folder.mkdir()
    for number in range(MANY):
        (folder / f"{number}.pem").write_bytes(issue(f"n{number}.example", f"n{number}.example").both_pem)


def visit(port: int) -> float:
    """Seconds that a visit took."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        while sock.recv(100):
            pass
    return time.monotonic() - began


def longest_until(port: int, over: Callable[[], bool]) -> float:
    """The longest of the visits that are made until this is so."""
    longest = 0.0

    def visited() -> bool:
        nonlocal longest
        longest = max(longest, visit(port))
        return over()

    wait_until(visited)
    return longest


def test_eight_hundred_certificates_are_renewed_and_reloaded_meanwhile(installed: Installed, tmp_path: Path) -> None:
    folder, other, config = tmp_path / "tls", tmp_path / "other", tmp_path / "greet.toml"
    fill(folder)
    fill(other)
    listen = f"'tcp:0:interface=127.0.0.1', 'tls:{folder}:port=0:interface=127.0.0.1'"
    config.write_text(f"listen = [{listen}]\nlog-visits = 'off'\n")
    program = installed.start(tmp_path, "greetsvc", "--config", str(config))
    port, _ = program.ports(2)
    fill(tmp_path / "renewed")
    for path in (tmp_path / "renewed").iterdir():
        path.rename(folder / path.name)
    assert longest_until(port, lambda: "TLS certificates have been reloaded" in program.said()) < LONGEST
    config.write_text(f"listen = [{listen}, 'tls:{other}:port=0:interface=127.0.0.1']\nlog-visits = 'off'\n")
    program.send_signal(signal.SIGHUP)
    assert longest_until(port, lambda: "The settings were reloaded" in program.said()) < LONGEST
