"""Exit statuses: output that cannot be written, and listeners that fail late."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.installed import Installed

LISTEN = "unix:left.sock"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")

# A plugin whose endpoint fails half a second after it was asked to listen.
PLUGIN = """
from twisted.internet import defer, task
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

@implementer(IPlugin, IStreamServerEndpointStringParser)
class Late:
    prefix = "late"
    def parseStreamServer(self, reactor, *args, **kwargs):
        return self
    def listen(self, factory):
        from twisted.internet import reactor
        def fail():
            raise OSError(98, "Address already in use")
        return task.deferLater(reactor, 0.5, fail)

late = Late()
"""


def _run(
    installed: Installed, folder: Path, command: list[str], output: str | int
) -> subprocess.CompletedProcess[str]:
    stdout = os.open(output, os.O_WRONLY) if isinstance(output, str) else output
    try:
        return subprocess.run(
            command, cwd=folder, env=installed.environment(), stdout=stdout, stderr=subprocess.PIPE,
            text=True, timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(stdout)


@needs_full
@pytest.mark.parametrize("arguments", [["--check", "--listen", LISTEN], ["--list"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_one_line_and_leaves_nothing(
    installed: Installed, tmp_path: Path, arguments: list[str]
) -> None:
    done = _run(installed, tmp_path, installed.command("greetsvc", *arguments), "/dev/full")
    assert (done.returncode, done.stderr) == (1, "greetsvc: standard output: No space left on device\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--check", "--listen", LISTEN], ["--help"]])
def test_a_closed_standard_output_is_one_line(installed: Installed, tmp_path: Path, arguments: list[str]) -> None:
    command = ["sh", "-c", 'exec "$0" "$@" >&-', *installed.command("greetsvc", *arguments)]
    done = _run(installed, tmp_path, command, os.devnull)
    assert (done.returncode, done.stderr) == (1, "greetsvc: standard output: it is closed\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--list"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(installed: Installed, tmp_path: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _run(installed, tmp_path, installed.command("greetsvc", *arguments), writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("program", [["greetsvc"], ["twistd", "--nodaemon", "--pidfile=", "greetsvc"]])
def test_an_endpoint_that_fails_late_ends_the_program_with_status_1(
    installed: Installed, tmp_path: Path, program: list[str]
) -> None:
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "late_plugin.py").write_text(PLUGIN)
    # Twisted looks for the folders of its plugins at its start.
    done = installed.run(tmp_path, *program, "--listen", "late:x", fresh=True, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "greetsvc: --listen late:x: Address already in use" in done.stdout
    assert sys.platform != "linux" or "Traceback" not in done.stdout + done.stderr


def test_a_socket_that_the_service_manager_did_not_pass_is_one_line(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, *installed.command("greetsvc", "--listen", "systemd:domain=INET:index=0"))
    expected = "greetsvc: --listen systemd:domain=INET:index=0: the service manager passed no such socket\n"
    assert (done.returncode, done.stderr) == (1, expected)
