"""SIGUSR2: a new process takes over the sockets, or the old one goes on and says why."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from shutil import ignore_patterns
from typing import TYPE_CHECKING

import pytest

import greetsvc
from greetsvc.daemon.processes.kin import ErrorLines, real_pidfile
from tests.support.process import Program
from tests.support.service import ask
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"
MARKED = b"GREET/1 0123456789abcdef " + bytes(100)


def _visit(family: int, address: object) -> bytes:
    with socket.socket(family) as peer:
        peer.settimeout(10)
        peer.connect(address)  # type: ignore[arg-type]
        with peer.makefile("rb") as stream:
            return stream.read()


def _upgrade(server: Program, times: int = 1) -> Program:
    """The successor, once the predecessor has ended."""
    server.send_signal(signal.SIGUSR2)
    told = server.wait_for(" serves, this one ends", times)
    assert len(told) == times
    pid = int(server.wait_for("Upgrade: process ", 2 * times)[-1].split()[0])
    server.wait()
    return Program(pid, server.log)


def test_a_successor_has_the_same_sockets_and_files(installed: Installed, tmp_path: Path) -> None:
    """In the foreground, twice; a connection that is open goes on in the old process."""
    path = tmp_path / "greet.sock"
    listen = [f"tcp:0:{LOOPBACK}", f"udp:0:{LOOPBACK}", f"unix:{path}", f"unixgram:{path}-dgram"]
    options = [word for endpoint in listen for word in ("--listen", endpoint)]
    first = installed.start(tmp_path, "greetsvc", *options, "--linger", "20", "--deadline", "20", fresh=True)
    tcp, udp = first.ports(2)
    first.wait_for("Server start at path: ", 2)
    with socket.create_connection(("127.0.0.1", tcp), 10) as held:
        assert held.recv(100)
        first.send_signal(signal.SIGUSR2)
        first.wait_for(" serves, this one ends")
        assert first.alive()
        assert _visit(socket.AF_INET, ("127.0.0.1", tcp))
    assert first.wait() == 0
    second = installed.programs.add(Program(int(first.wait_for("Upgrade: process ")[0].split()[0]), first.log))
    third = installed.programs.add(_upgrade(second, 2))
    assert _visit(socket.AF_INET, ("127.0.0.1", tcp))
    assert _visit(socket.AF_UNIX, str(path))
    assert ask("127.0.0.1", udp, request=MARKED)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "peer"))
        peer.settimeout(10)
        peer.sendto(MARKED, f"{path}-dgram")
        assert peer.recv(100)
    third.stop()
    assert not path.exists()
    assert "Traceback" not in first.said()


def test_a_daemon_hands_over_its_pid_file(installed: Installed, tmp_path: Path) -> None:
    server = installed.daemon(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", fresh=True)
    (port,) = server.ports()
    successor = installed.programs.add(_upgrade(server))
    wait_until(lambda: not server.alive())
    assert int((tmp_path / "pid").read_text()) == successor.pid
    assert not (tmp_path / "pid.new").exists()
    assert _visit(socket.AF_INET, ("127.0.0.1", port))
    successor.stop()
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("daemon", [False, True])
def test_a_successor_that_cannot_start_leaves_the_old_one_serving(
    installed: Installed, tmp_path: Path, daemon: bool
) -> None:
    """The log says why in one line; the pid file is still that of the old one. Then the fault is mended."""
    settings = tmp_path / "greetsvc.toml"
    settings.write_text("deadline = 5")
    options = ("--config", str(settings), "--listen", f"tcp:0:{LOOPBACK}")
    if daemon:
        server = installed.daemon(tmp_path, *options, fresh=True)
    else:
        server = installed.start(tmp_path, "greetsvc", *options, fresh=True)
    (port,) = server.ports()
    settings.write_text("deadline = -1")
    server.send_signal(signal.SIGUSR2)
    (told,) = server.wait_for("No upgrade, this process goes on: ")
    assert told.startswith(f"the new one ended (exit status 1): greetsvc: {settings}: deadline: must be a number")
    assert _visit(socket.AF_INET, ("127.0.0.1", port))
    if daemon:
        assert int((tmp_path / "pid").read_text()) == server.pid
    settings.write_text("deadline = 6")
    installed.programs.add(_upgrade(server)).stop()


def test_what_was_installed_over_a_running_service_is_not_mixed_with_it(installed: Installed, tmp_path: Path) -> None:
    """A broken new version: the old one says that it did not start, in one line, and needs nothing of its files."""
    shutil.copytree(
        Path(greetsvc.__file__).parent, tmp_path / "lib" / "greetsvc", ignore=ignore_patterns("__pycache__")
    )
    server = installed.start(
        tmp_path,
        "greetsvc",
        "--listen",
        f"tcp:0:{LOOPBACK}",
        fresh=True,
        PYTHONPATH=str(tmp_path / "lib"),
        GREETSVC_TESTS_COVERAGE="",
    )
    (port,) = server.ports()
    wait_until(server.asleep, server.said)
    for module in (tmp_path / "lib").rglob("*.py"):
        module.write_text("raise SystemExit('this is broken')\n")
    server.send_signal(signal.SIGUSR2)
    (why,) = server.wait_for("No upgrade, this process goes on: ")
    assert why == "the new one ended (exit status 1): this is broken"
    assert "Traceback" not in server.said()
    assert _visit(socket.AF_INET, ("127.0.0.1", port))
    assert server.stop() == 0


def test_a_stop_during_an_upgrade_stops_both(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "greetsvc", "--listen", f"tcp:0:{LOOPBACK}", fresh=True)
    server.ports()
    server.send_signal(signal.SIGUSR2)
    pid = int(server.wait_for("Upgrade: process ")[0].split()[0])
    server.send_signal(signal.SIGUSR2)
    server.wait_for("SIGUSR2 ignored: an upgrade or a stop is in progress")
    assert server.stop() == 0
    Program(pid, server.log).wait()
    assert "Traceback" not in server.said()


def test_a_variable_that_is_not_ours_to_set_is_one_line(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "greetsvc", GREETSVC_STARTED_AS="king")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "greetsvc: GREETSVC_STARTED_AS: 'king': greetsvc sets this variable itself\n"
    done = installed.run(tmp_path, "greetsvc", GREETSVC_STARTED_AS="successor")
    assert done.returncode == 1
    assert done.stderr.startswith("greetsvc: GREETSVC_STARTED_AS: 'successor': ")
    assert done.stderr.count("\n") == 1


def test_the_last_line_of_standard_error_is_the_reason() -> None:
    lines = ErrorLines()
    assert lines.add(b"Traceback\n  File\x1b[1m\nImport") == ["Traceback", r"File\x1b[1m"]
    assert lines.add(b"Error: no\n\n") == ["ImportError: no"]
    assert lines.last == "ImportError: no"
    lines.add(b"OSError: full\nPlease look at log file for more information.\n")
    assert lines.last == "OSError: full"


def test_the_pid_file_of_a_successor_has_a_name_of_its_own() -> None:
    assert real_pidfile("/run/greet.pid.new") == "/run/greet.pid"
