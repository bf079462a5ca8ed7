"""A server as a process: started on its core, watched through /proc, ended."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bench.machine import Cores
from bench.peers import Peer

PORT_LINE = re.compile(rb"Server start at port: (\d+)")
WORKERS_LINE = re.compile(rb"workers serve")
PATIENCE = 15.0
ROOT = Path(__file__).parent.parent


class NotStartedError(Exception):
    """A server did not come up; the message is the reason, as one line."""


def raise_file_limit() -> None:
    """Open files up to the hard limit, for this process and the servers it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def core_time(core: int) -> tuple[int, int]:
    """(busy, all) clock ticks that ``core`` has spent so far."""
    found = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        return 0, 0
    user, nice, system, idle, waiting, *rest = map(int, found[1].split())
    busy = user + nice + system + sum(rest[:2])
    return busy, busy + idle + waiting


def cpu_of(command: Sequence[str]) -> float:
    """Run a command, which must succeed; the processor time that it took, in seconds."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise NotStartedError(f"{command[0]}: exit status {process.returncode}")
    return used.ru_utime + used.ru_stime


class Server:
    """A running server. ``ready_after`` is how long its first line took, in seconds from the fork."""

    def __init__(self, peer: Peer, cores: Cores, log: Path) -> None:
        self.peer = peer
        self.core = cores.server
        self._log = log
        began = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                peer.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, cores.workers if peer.workers > 1 else {self.core})
        try:
            self.port = self._port(began)
            if peer.workers > 1:
                self._wait_for(WORKERS_LINE, began)
            if peer.transport == "tcp" and self.port:
                self._first_greeting(began)
        except BaseException:
            self.stop()
            raise
        self.ready_after = time.perf_counter() - began

    def _port(self, began: float) -> int:
        return int(self._wait_for(PORT_LINE, began)[1])

    def _wait_for(self, line: re.Pattern[bytes], began: float) -> re.Match[bytes]:
        while time.perf_counter() - began < PATIENCE:
            found = line.search(self._log.read_bytes())
            if found:
                return found
            if self._process.poll() is not None:
                break
            time.sleep(0.001)
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise NotStartedError(said[-1] if said else "it said nothing")

    def _first_greeting(self, began: float) -> None:
        while time.perf_counter() - began < PATIENCE:
            try:
                with socket.create_connection((self.peer.host, self.port), timeout=PATIENCE) as peer:
                    if peer.recv(64):
                        return
            except OSError:
                time.sleep(0.001)
            if self._process.poll() is not None:
                break
        raise NotStartedError("it greets nobody")

    def pids(self) -> list[int]:
        """Its processes: the workers too, if it has any."""
        if self.peer.workers == 1:
            return [self.pid]
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [self.pid, *map(int, children.split())]

    def times(self) -> tuple[int, int]:
        """User and system time in clock ticks (10 ms), scaled by the kernel to what the processes really ran."""
        stats = [
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split() for pid in self.pids()
        ]
        return sum(int(fields[11]) for fields in stats), sum(int(fields[12]) for fields in stats)

    def memory(self) -> int:
        """Proportional set size, in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise NotStartedError("the kernel does not say how much memory it has")

    def descriptors(self) -> int:
        """How many files are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def settle(self) -> int:
        """Wait until no more connections are being closed; how many files are open then."""
        before, now = -1, self.descriptors()
        while before != now:
            time.sleep(0.1)
            before, now = now, self.descriptors()
        return now

    def stop(self) -> None:
        """End it, without ceremony: nothing that follows is measured."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
