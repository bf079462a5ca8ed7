"""Programs in processes of their own, with a log that a test can read and wait on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from tests.support.forked import Forked
from tests.support.shared import FOLDER
from tests.support.waiting import PATIENCE, wait_until

STARTED = "Server start at "
FORK_SERVER = FOLDER / "forked" / "socket"


@define
class Program:
    """A program that was started; ``log`` is the file that it writes to.

    ``process`` is None for a daemon: it is no child of ours, so its exit status is not known.
    """

    pid: int
    log: Path
    process: subprocess.Popen[bytes] | Forked | None = None

    @classmethod
    def start(cls, command: Sequence[str], log: Path, **options: Any) -> Program:
        """Start a program that writes output and errors to ``log``; ``options`` are those of `subprocess.Popen`."""
        with log.open("wb") as output:
            given = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, **options}
            process = subprocess.Popen(command, **given)
        return cls(process.pid, log, process)

    @classmethod
    def fork(
        cls, server: Path, command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]
    ) -> Program:
        """The same, by the fork server that listens at ``server``."""
        with log.open("wb") as output:
            process = Forked(server, command, folder, environment, output)
        return cls(process.pid, log, process)

    def said(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="backslashreplace") if self.log.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> list[str]:
        """The rest of each line that holds ``text``, once the log holds it so many times."""
        wait_until(
            lambda: self.said().count(text) >= times or not self.alive(), lambda: f"no {text!r} in:\n{self.said()}"
        )
        assert self.said().count(text) >= times, f"it ended without {text!r}:\n{self.said()}"
        return [line.partition(text)[2] for line in self.said().splitlines() if text in line]

    def ports(self, number: int = 1) -> list[int]:
        """The ports that it was given, in the order of its listeners."""
        return [int(re.split(r"\D", rest)[0]) for rest in self.wait_for(f"{STARTED}port: ", number)]

    def listening(self) -> list[int]:
        """The IPv4 TCP ports that it listens on, from the kernel (Linux): for a program whose log cannot be read."""
        sockets = set()
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                sockets.add(str(descriptor.readlink()))
        rows = [row.split() for row in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        # proc_pid_net(5): field 2 is ADDRESS:PORT, 4 the state (0A: listening), 10 the inode.
        return [
            int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets
        ]

    def rss(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu(self) -> float:
        """Seconds of processor time spent so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def asleep(self) -> bool:
        """Whether it waits for something, 20 times of 20: a program that spins does not (Linux)."""
        for _ in range(20):
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
                return False
            time.sleep(0.005)
        return True

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def alive(self) -> bool:
        """Whether it still runs."""
        return _alive(self.pid) if self.process is None else self.process.poll() is None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, patience: float = PATIENCE) -> int | None:
        """Wait for its end; the exit status where it is known."""
        if self.process is not None:
            return self.process.wait(patience)
        wait_until(lambda: not self.alive(), lambda: f"still running:\n{self.said()}", patience)
        return None

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Send it a signal, and wait for its end; the exit status where it is known."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it whatever it does."""
        if self.alive():
            self.send_signal(signal.SIGKILL)
        self.wait()


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie, which ended and has not been waited for, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@define
class Programs:
    """The programs that a test started, each with a log of its own in the folder where it runs."""

    started: list[Program] = field(factory=list)

    def start(self, command: Sequence[str], folder: Path, **options: Any) -> Program:
        """Start a program in ``folder``."""
        return self.add(Program.start(command, self._log(folder), **{"cwd": folder, **options}))

    def fork(self, server: Path, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Program:
        """The same, by the fork server that listens at ``server``."""
        return self.add(Program.fork(server, command, self._log(folder), folder, environment))

    def _log(self, folder: Path) -> Path:
        return folder / f"output-{len(self.started)}"

    def add(self, program: Program) -> Program:
        """Count a program that was started elsewhere among these."""
        self.started.append(program)
        return program

    def kill(self) -> None:
        """End those that still run, the latest first."""
        for program in reversed(self.started):
            program.kill()


@pytest.fixture
def child(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Starts services with this Python, and kills what is left of them; none may have logged a traceback.

    The fork server does, but in the lab, for another ``command`` and with options of `subprocess.Popen`: services of
    the lab are measured, and start themselves again.
    """
    programs = Programs()
    fresh = request.node.get_closest_marker("lab") is not None

    def start(*options: str, command: tuple[str, ...] = (), **popen: Any) -> Program:
        if fresh or command or popen:
            return programs.start([sys.executable, *(command or ("-m", "greetsvc")), *options], tmp_path, **popen)
        return programs.fork(FORK_SERVER, ["greetsvc", *options], tmp_path, os.environ)

    yield start
    programs.kill()
    for program in programs.started:
        assert "Traceback" not in program.said(), program.said()
