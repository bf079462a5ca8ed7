"""Two ways to run the commands: the installed script, and a stand-in that forks a Python which is ready."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import fork_server, stand_in
from tests.support.shared import FOLDER, OURS

GREET = str(Path(sysconfig.get_path("scripts")) / "greet")
"""The installed script."""

FORKED = str(FOLDER / "forked" / "greet")
"""What does the same in a tenth of the time; see `tests.support.fork_server` for what needs the other."""

FORKED_SERVICE = str(FOLDER / "forked" / "greetsvc")
"""The same for the service, for what ends by itself (`--check`, a wrong option)."""

PROGRAMS = ("greet", "greetsvc", "twistd")
"""What the fork server runs."""

_server = pytest.StashKey[subprocess.Popen[bytes]]()


def fork_server_at(
    folder: Path, python: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a fork server with this Python, and write its stand-ins for the commands into ``folder``.

    It ends when the folder is removed.
    """
    folder.mkdir()
    place = folder / "socket"
    source = Path(stand_in.__file__).read_text()
    for name in PROGRAMS:
        script = folder / name
        script.write_text(f"#!{python} -IS\n{source}\n\nmain({str(place)!r})\n")
        script.chmod(0o755)
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen(
            [python, fork_server.__file__, str(place)],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork server, once for all processes of this run."""
    if OURS:
        config.stash[_server] = fork_server_at(Path(FORKED).parent, sys.executable)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End it."""
    if OURS:
        config.stash[_server].kill()
        config.stash[_server].wait()
