"""The real commands, from a built wheel in a clean environment, run in folders of their own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from attrs import field, frozen

from tests.support.greet import PROGRAMS, fork_server_at
from tests.support.process import STARTED, Program, Programs
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@frozen
class Installed:
    """The environment that the wheel is installed in."""

    bin: Path
    forks: bool = False
    """Whether its fork server may start programs: not in the lab, where services start themselves again."""
    programs: Programs = field(factory=Programs)

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of a script of this environment."""
        return [str(self.bin / name), *arguments]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Environment variables, less those that would lend it modules or sockets."""
        lent = ("PYTHON", "LISTEN_", "COV_", "COVERAGE_", "NOTIFY_SOCKET")
        return {name: value for name, value in os.environ.items() if not name.startswith(lent)} | dict(extra or {})

    def run(
        self, folder: Path, *command: str, fresh: bool = False, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; started fast unless ``fresh``, see `tests.support.fork_server`."""
        name, *arguments = command
        forked = not fresh and self._forks(name, variables)
        return subprocess.run(
            [str(self._forked / name), *arguments] if forked else self.command(name, *arguments),
            cwd=folder,
            env=self.environment(variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, folder: Path, *command: str, fresh: bool = False, **variables: str) -> Program:
        """Start a script that stays in the foreground and logs to its standard output; see `run`."""
        environment = self.environment(variables)
        if not fresh and self._forks(command[0], variables):
            return self.programs.fork(self._forked / "socket", command, folder, environment)
        return self.programs.start(self.command(*command), folder, env=environment)

    @property
    def _forked(self) -> Path:
        """The folder of the fork server of this environment."""
        return self.bin.parent.parent / "forked"

    def _forks(self, name: str, variables: Mapping[str, str]) -> bool:
        """Whether the fork server runs this: Python reads most variables of its own only at its start."""
        own = {each for each in variables if each.startswith("PYTHON")} - {"PYTHONPATH"}
        return self.forks and name in PROGRAMS and not own

    def twistd(self, folder: Path, *options: str, fresh: bool = False) -> Program:
        """``twistd`` in the foreground, once it has started."""
        program = self.start(folder, "twistd", "-n", "--pidfile=", "greetsvc", *options, fresh=fresh)
        program.wait_for(STARTED)
        return program

    def daemon(self, folder: Path, *options: str, fresh: bool = False) -> Program:
        """``twistd`` daemonized, with ``pid`` and ``log`` in the folder."""
        command = ("twistd", f"--pidfile={folder / 'pid'}", "-l", str(folder / "log"), "greetsvc", *options)
        done = self.run(folder, *command, fresh=fresh)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        program = self.programs.add(Program(int((folder / "pid").read_text()), folder / "log"))
        program.wait_for(STARTED)
        return program


def _script(path: Path, python: Path, target: str) -> None:
    """The script that an installer writes for an entry point."""
    module, _, name = target.partition(":")
    top = name.partition(".")[0]
    path.write_text(f"#!{python}\nimport sys\nfrom {module} import {top}\nsys.exit({name}())\n")
    path.chmod(0o755)


@pytest.fixture(scope="session")
def environment(shared_folder: Path) -> Installed:
    """The wheel, built and installed with no network, once for all processes that run tests.

    Its dependencies are those of the test environment, which a ``.pth`` file adds to its path. Python does not read
    the ``.pth`` files of a folder that is added this way, so that an editable greetsvc there is not found.
    """
    place = shared_folder / "wheel"
    with (shared_folder / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            place.mkdir()
            ours = install(place)
            _servers.append(fork_server_at(place / "forked", str(ours.bin / "python"), ours.environment()))
    return Installed(place / "venv" / "bin")


_servers: list[subprocess.Popen[bytes]] = []  # a Popen that is forgotten while its program runs is a warning


def install(place: Path, more: Sequence[Path] = ()) -> Installed:
    """Make that environment in the folder ``place``, with the packages that ``more`` folders hold too."""
    for folder in (ROOT, *more):
        _quietly([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)], cwd=folder)
    bin_ = install_dependencies(place / "venv", "--without-pip")
    wheels = map(str, place.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", str(bin_ / "python")]
    _quietly([*pip, "install", "--no-deps", "--no-index", *wheels], cwd=place)
    return Installed(bin_)


def install_dependencies(venv: Path, *options: str) -> Path:
    """Make an environment with what greetsvc needs, with the ``options`` of venv; its folder of scripts."""
    _quietly([sys.executable, "-m", "venv", *options, str(venv)], cwd=ROOT)
    bin_ = venv / "bin"
    purelib = next(venv.glob("lib/python*/site-packages"))
    own = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (purelib / "dependencies.pth").write_text("".join(f"{path}\n" for path in own))
    measured = Path(__file__).with_name("measured.py")
    (purelib / "measured.pth").write_text(f"import runpy; runpy.run_path({str(measured)!r})\n")
    for script in ("twistd", "twist"):
        (point,) = entry_points(group="console_scripts", name=script)
        _script(bin_ / script, bin_ / "python", point.value)
    return bin_


def _quietly(command: Sequence[str], cwd: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def installed(environment: Installed, request: pytest.FixtureRequest) -> Iterator[Installed]:
    """The environment; what a test started there and did not stop is killed."""
    ours = Installed(environment.bin, forks=request.node.get_closest_marker("lab") is None)
    yield ours
    ours.programs.kill()


@pytest.fixture
def tutorial() -> Path:
    """Where the tutorial's blocking programs are."""
    return Path(__file__).parent / "tutorial"
