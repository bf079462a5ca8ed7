"""The machine that measured: what a reader needs to know of it, and nothing that names it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import frozen


@frozen
class Cores:
    """A core for the server, and another for the load generator and the bench, where there is another.

    With a third one, two workers have a core each.
    """

    server: int
    load: int
    third: int | None = None

    @property
    def workers(self) -> set[int]:
        """The cores of a server that consists of two workers."""
        return {self.server} if self.third is None else {self.server, self.third}

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The last two cores that this process may use: interrupts prefer the first."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(
            server=usable[-1],
            load=usable[-2] if len(usable) > 1 else usable[-1],
            third=usable[-3] if len(usable) > 2 else None,
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not there"
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return (answer.stdout or answer.stderr).partition("\n")[0].strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not there"


def description() -> dict[str, str]:
    """Date, kernel, processor and versions, in the words of the report."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "TCP congestion control": congestion.read_text(encoding="ascii").strip(),
        "Python": platform.python_version(),
        "Twisted": _version("twisted"),
        "greetsvc": _version("greetsvc"),
        "uvloop": _version("uvloop"),
        "nginx": _first_line("nginx", "-v").removeprefix("nginx version: "),
        "C compiler": _first_line("cc", "--version"),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }
