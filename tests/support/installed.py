"""The real commands, from a built wheel in a clean environment, run in folders of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from attrs import field, frozen

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
STARTED = "Server start at "


def _until(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Poll until it holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that is over and that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@frozen
class Running:
    """A server; ``log`` is where it writes."""

    pid: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def said(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> list[str]:
        """The rest of each line that holds ``text``, once there are that many of them."""
        _until(
            lambda: self.said().count(text) >= times or not self.alive(), lambda: f"no {text!r} in:\n{self.said()}"
        )
        rests = [line.partition(text)[2] for line in self.said().splitlines() if text in line]
        assert len(rests) >= times, f"it ended without {text!r}:\n{self.said()}"
        return rests

    def ports(self, number: int = 1) -> list[int]:
        """The ports that it was given, in the order of its listeners."""
        return [int(rest.partition('"')[0]) for rest in self.wait_for(f"{STARTED}port: ", number)]

    def alive(self) -> bool:
        """Whether it still runs."""
        return _alive(self.pid) if self.process is None else self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Send the signal, and wait for the end; the exit status where it is known."""
        os.kill(self.pid, number)
        if self.process is not None:
            return self.process.wait(PATIENCE)
        _until(lambda: not self.alive(), lambda: f"still running:\n{self.said()}")
        return None


@frozen
class Installed:
    """The environment that the wheel is installed in."""

    bin: Path
    started: list[Running] = field(factory=list)

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of a script of this environment."""
        return [str(self.bin / name), *arguments]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Environment variables, less those that would lend it modules or sockets."""
        lent = ("PYTHON", "LISTEN_", "COV_", "COVERAGE_", "NOTIFY_SOCKET")
        return {name: value for name, value in os.environ.items() if not name.startswith(lent)} | dict(extra or {})

    def run(self, folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        return subprocess.run(
            self.command(*command),
            cwd=folder,
            env=self.environment(variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, folder: Path, *command: str, **variables: str) -> Running:
        """Start a script that stays in the foreground and logs to its standard output."""
        log = folder / f"output-{len(self.started)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*command),
                cwd=folder,
                env=self.environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = Running(process.pid, log, process)
        self.started.append(running)
        return running

    def twistd(self, folder: Path, *options: str) -> Running:
        """``twistd`` in the foreground, once it has started."""
        running = self.start(folder, "twistd", "-n", "--pidfile=", "greetsvc", *options)
        running.wait_for(STARTED)
        return running

    def daemon(self, folder: Path, *options: str) -> Running:
        """``twistd`` daemonized, with ``pid`` and ``log`` in the folder."""
        command = ("twistd", f"--pidfile={folder / 'pid'}", "-l", str(folder / "log"), "greetsvc", *options)
        done = self.run(folder, *command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        running = Running(int((folder / "pid").read_text()), folder / "log")
        self.started.append(running)
        running.wait_for(STARTED)
        return running


def _script(path: Path, python: Path, target: str) -> None:
    """The script that an installer writes for an entry point."""
    module, _, name = target.partition(":")
    top = name.partition(".")[0]
    path.write_text(f"#!{python}\nimport sys\nfrom {module} import {top}\nsys.exit({name}())\n")
    path.chmod(0o755)


@pytest.fixture(scope="session")
def environment() -> Iterator[Installed]:
    """The wheel, built and installed with no network: its dependencies are those of the test environment.

    They come by a line of a ``.pth`` file; the ``.pth`` files in a folder added that way are not read, so that an
    editable greetsvc there does not count.
    """
    with tempfile.TemporaryDirectory(prefix="greetsvc-system-") as name:
        place = Path(name)
        place.chmod(0o755)
        _quietly([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)], cwd=ROOT)
        _quietly([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], cwd=place)
        bin_ = place / "venv" / "bin"
        wheel = next(place.glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "--python", str(bin_ / "python")]
        _quietly([*pip, "install", "--no-deps", "--no-index", str(wheel)], cwd=place)
        purelib = next((place / "venv").glob("lib/python*/site-packages"))
        own = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        (purelib / "dependencies.pth").write_text("".join(f"{path}\n" for path in own))
        for script in ("twistd", "twist"):
            (point,) = entry_points(group="console_scripts", name=script)
            _script(bin_ / script, bin_ / "python", point.value)
        yield Installed(bin_)


def _quietly(command: Sequence[str], cwd: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def installed(environment: Installed) -> Iterator[Installed]:
    """The environment; what a test has started there and not stopped is killed."""
    ours = Installed(environment.bin)
    yield ours
    for running in ours.started:
        if running.alive():
            os.kill(running.pid, signal.SIGKILL)
        if running.process is not None:
            running.process.wait(PATIENCE)


@pytest.fixture
def tutorial() -> Path:
    """Where the tutorial's blocking programs are."""
    return ROOT / "tests" / "system" / "tutorial"
