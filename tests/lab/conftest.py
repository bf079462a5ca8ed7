"""The lab: real programs, each test in a network namespace of its own, where every port is free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from attrs import field, frozen

PATIENCE = 20.0
BIN = Path(sys.executable).parent


@frozen
class Namespace:
    """A network namespace with nothing but loopback."""

    name: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(factory=list)

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words`` in here; scripts of the test environment come first."""
        own = BIN / words[0]
        return ["ip", "netns", "exec", self.name, str(own) if own.exists() else words[0], *words[1:]]

    def run(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, with ``given`` on its standard input."""
        return subprocess.run(
            self.command(*words), input=given, cwd=self.folder, capture_output=True, timeout=PATIENCE, check=False
        )

    def start(self, *words: str, until: str, times: int = 1) -> Path:
        """Start a program, and wait until its log, which this returns, holds ``until`` so many times."""
        log = self.folder / f"output-{len(self.started)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        end = time.monotonic() + PATIENCE
        while log.read_text().count(until) < times:
            assert process.poll() is None, f"{words} ended:\n{log.read_text()}"
            assert time.monotonic() < end, f"no {until!r} in:\n{log.read_text()}"
            time.sleep(0.01)
        return log

    def twistd(self, *options: str, listeners: int = 1) -> Path:
        """Start ``twistd greetsvc``; its log, which names this many listeners."""
        command = ("twistd", "-n", "--pidfile=", "greetsvc", *options)
        return self.start(*command, until="Server start at ", times=listeners)

    def stop(self) -> None:
        """End what was started, the latest first."""
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
        self.started.clear()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=PATIENCE)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace for this test."""
    assert os.geteuid() == 0, "the lab needs root: make lab says so"
    name = f"greet-{uuid4().hex[:8]}"
    here = Namespace(name, tmp_path)
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield here
    finally:
        here.stop()
        _ip("netns", "delete", name)
