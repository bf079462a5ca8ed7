"""The systemd units: each has one home, and is printed with the command of this installation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from greetsvc.daemon.settings.table import SETTINGS
from greetsvc.daemon.systemd import unit as unit_module
from greetsvc.daemon.systemd.unit import UNITS, unit

if TYPE_CHECKING:
    from tests.support.installed import Installed

DEPLOY = Path(__file__).parents[3] / "deploy"
MOST_EXPOSED = 1.6
analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@pytest.mark.parametrize("kind", UNITS)
def test_the_wheel_prints_the_unit_that_is_in_deploy(installed: Installed, tmp_path: Path, kind: str) -> None:
    done = installed.run(tmp_path, "greetsvc", "--print-unit", kind, fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    expected = (DEPLOY / f"greetsvc.{kind}").read_text("utf-8")
    assert done.stdout.endswith(expected.replace("/opt/greetsvc/bin/greetsvc", str(installed.bin / "greetsvc")))


def test_another_kind_is_one_line(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "greetsvc", "--print-unit", "timer")
    expected = "greetsvc: --print-unit: must be one of service, socket, not 'timer'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize(
    ("program", "scripts", "command"),
    [
        ("/srv/my apps/greetsvc", "/none", '"/srv/my apps/greetsvc"'),
        ("/srv/100%/greetsvc", "/none", "/srv/100%%/greetsvc"),
        ("/usr/bin/twistd", "/venv/$bin", "/venv/$$bin/greetsvc"),
        ("/usr/lib/greetsvc/__main__.py", "/none", f"{sys.executable} -m greetsvc"),
    ],
)
def test_the_command_is_absolute_and_quoted(
    program: str, scripts: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr("sysconfig.get_path", lambda _name: scripts)
    monkeypatch.setattr("os.access", lambda path, _mode: not path.startswith("/none"))
    assert f"ExecStart={command} --config /etc/greetsvc/greetsvc.toml\n" in unit("service")


def test_an_installation_that_the_service_cannot_see_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "_command", lambda: ["/home/me/bin/greetsvc"])
    assert unit("service").startswith("# /home/me/bin/greetsvc is hidden from this service: ")
    monkeypatch.setattr(unit_module, "_command", lambda: ["/usr/bin/greetsvc"])
    monkeypatch.setattr("os.path.realpath", lambda _path: "/usr/bin/python3")
    assert unit("service").startswith("# A systemd unit. ")


def test_the_unit_uses_options_that_exist() -> None:
    used = set(re.findall(r"--([a-z-]+)", unit("service")))
    assert used <= {setting.name for setting in SETTINGS}


@analyze
def test_the_service_is_hardened() -> None:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(DEPLOY / "greetsvc.service")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    (level,) = re.findall(r"Overall exposure level for greetsvc.service: ([0-9.]+)", said.stdout)
    assert float(level) <= MOST_EXPOSED


@analyze
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Versions before 253 do not know notify-reload, and say so; the unit then is of the type before it."""
    for kind in UNITS:
        text = (DEPLOY / f"greetsvc.{kind}").read_text("utf-8")
        (tmp_path / f"greetsvc.{kind}").write_text(text.replace("/opt/greetsvc/bin/greetsvc", "/bin/true"))
    units = [str(tmp_path / f"greetsvc.{kind}") for kind in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=30, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "greetsvc" in line]
    assert all(line.endswith("Failed to parse service type, ignoring: notify-reload") for line in ours), ours
    assert done.returncode == 0
