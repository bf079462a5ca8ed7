"""Signals while a command starts: Ctrl-C ends it without a traceback, and those that never end the service do not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Sends a signal at the moment that a module is first imported.
START = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Interrupt())
from {place} import main
sys.argv = {arguments!r}
sys.exit(main())
"""
GREET = ("greetsvc.cli", ["greet", "-t", "1", "--json", "127.0.0.1:1"])
LOAD = ("greetsvc.cli", ["greet", "--duration", "1", "127.0.0.1:1"])
SERVER = ("greetsvc.__main__", ["greetsvc", "--listen", "tcp:0:interface=127.0.0.1"])


def start(
    place: str, arguments: list[str], module: str, folder: Path, number: int = signal.SIGINT
) -> subprocess.CompletedProcess[bytes]:
    code = START.format(place=place, arguments=arguments, module=module, number=int(number))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (GREET, "attrs"),
        (GREET, "click"),
        (GREET, "twisted.internet.defer"),
        (GREET, "greetsvc.client.report.json_lines"),
        (GREET, "twisted.internet.epollreactor" if sys.platform == "linux" else "twisted.internet.selectreactor"),
        (LOAD, "greetsvc.client.load.run"),
        (SERVER, "twisted.python.usage"),
        (SERVER, "twisted.scripts._twistd_unix"),
        (SERVER, "greetsvc.daemon.service"),
        (SERVER, "greetsvc.net.stream.listener"),
    ],
)
def test_an_interrupt_at_any_import_ends_the_command_by_the_signal_and_says_nothing(
    command: tuple[str, list[str]], module: str, tmp_path: Path
) -> None:
    done = start(*command, module, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGHUP, "twisted.python.usage"),
        (signal.SIGUSR1, "greetsvc.daemon.service"),
        (signal.SIGUSR2, "greetsvc.net.stream.listener"),
    ],
)
def test_what_never_ends_the_service_does_not_end_it_while_it_starts(
    number: int, module: str, tmp_path: Path
) -> None:
    place, arguments = SERVER
    done = start(place, [*arguments, "--check"], module, tmp_path, number)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """A shell starts a background job like this."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = start(*GREET, "twisted.internet.defer", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 2
    assert b"Connection refused" in done.stdout


def test_the_commands_import_next_to_nothing_before_they_handle_an_interrupt() -> None:
    code = "import sys; before = {*sys.modules}; import %s; print(*sorted({*sys.modules} - before))"
    for place in ("greetsvc.cli", "greetsvc.__main__"):
        done = subprocess.run(
            [sys.executable, "-c", code % place], capture_output=True, text=True, timeout=30, check=True
        )
        assert {name.partition(".")[0] for name in done.stdout.split()} <= {"__future__", "greetsvc"}
