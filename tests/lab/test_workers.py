"""Workers: an upgrade, a start that fails, and sockets of a service manager; the rest is in tests/daemon."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.activation import Manager
from tests.support.process import Program
from tests.support.service import ask

if TYPE_CHECKING:
    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"
MARKED = b"GREET/1 0123456789abcdef " + bytes(100)


def _visit(family: int, address: Any) -> bytes:
    with socket.socket(family) as peer:
        peer.settimeout(10)
        peer.connect(address)
        with peer.makefile("rb") as stream:
            return stream.read()


def _processes(server: Program, times: int = 1) -> list[int]:
    """The workers, once they serve."""
    told = server.wait_for("2 workers serve: processes ", times)
    return [int(pid) for pid in told[-1].split(", ")]


def _ended(pid: int) -> bool:
    return not Program(pid, Path(os.devnull)).alive()


def test_an_upgrade_replaces_workers_one_after_another(installed: Installed, tmp_path: Path) -> None:
    options = ("--listen", f"tcp:0:{LOOPBACK}", "--listen", f"udp:0:{LOOPBACK}", "--workers", "2")
    server = installed.daemon(tmp_path, *options)
    tcp, udp = server.ports(2)
    before = _processes(server)
    server.send_signal(signal.SIGUSR2)
    server.wait_for(" serves, this one ends")
    after = _processes(server, 2)
    server.wait()
    assert not {*before} & {*after}
    assert all(_ended(pid) for pid in before)
    assert _visit(socket.AF_INET, ("127.0.0.1", tcp))
    assert ask("127.0.0.1", udp, request=MARKED)
    successor = installed.programs.add(Program(int((tmp_path / "pid").read_text()), server.log))
    successor.stop()
    assert "Traceback" not in server.said()


def test_a_worker_that_hangs_is_replaced(installed: Installed, tmp_path: Path) -> None:
    options = ("--listen", f"udp:0:{LOOPBACK}", "--workers", "2")
    server = installed.start(tmp_path, "greetsvc", *options, fresh=True)
    (port,) = server.ports()
    for pid in _processes(server):
        os.kill(pid, signal.SIGSTOP)
    server.wait_for(" hangs: it said nothing for 10 s", 2)
    server.wait_for("serves: process ", 2)
    for _ in range(16):
        assert ask("127.0.0.1", port, request=MARKED)
    server.stop()


def test_workers_that_cannot_start_end_the_service_with_a_line(installed: Installed, tmp_path: Path) -> None:
    """The plugin works for the parent only."""
    package = tmp_path / "plugin"
    (package / "x-1.dist-info").mkdir(parents=True)
    (package / "x-1.dist-info" / "entry_points.txt").write_text(
        "[greetsvc.greeters]\nfussy = fussy:Greeter.from_argument\n"
    )
    (package / "x-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\n")
    (package / "fussy.py").write_text(
        "import signal\n"
        "class Greeter:\n"
        "    needs = frozenset()\n"
        "    @classmethod\n"
        "    def from_argument(cls, argument, encoding):\n"
        "        'Fussy.'\n"
        "        if signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN:\n"
        "            raise ValueError('not in a worker')\n"
        "        return cls()\n"
        "    def greet(self, visit):\n"
        "        return b'hello'\n"
    )
    options = ("--workers", "2", "--listen", f"tcp:0:{LOOPBACK}", "--greeter", "fussy")
    server = installed.start(tmp_path, "greetsvc", *options, PYTHONPATH=str(package))
    assert server.wait() == 1
    assert "Worker 1 ended (exit status 1: greetsvc: " in server.said()
    assert re.search(r"greetsvc: workers cannot start: exit status 1: greetsvc: .*not in a worker", server.said())
    assert "Server start" not in server.said()


def test_sockets_of_a_service_manager_are_shared_too(child: Any) -> None:
    """A datagram socket that somebody else bound cannot be multiplied: one worker serves it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        server = Manager([stream, datagrams]).start(child, "--workers", "2")
        _processes(server)
        assert _visit(socket.AF_INET, stream.getsockname())
        assert ask("127.0.0.1", datagrams.getsockname()[1], request=MARKED)
        assert server.stop() == 0
