"""The settings that are shipped are accepted. tests/lab/test_examples.py has the packages of examples/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.installed import Installed

ROOT = Path(__file__).parents[2]


def test_the_example_settings_are_accepted(installed: Installed, tmp_path: Path) -> None:
    """Those of ``deploy/greetsvc.toml``, with ports that are free."""
    config = tmp_path / "greetsvc.toml"
    shipped = (ROOT / "deploy" / "greetsvc.toml").read_text()
    config.write_text(shipped.replace(":8088", ":0").replace("/run/greetsvc/", f"{tmp_path}/"))
    done = installed.run(tmp_path, "twistd", "greetsvc", "--check", "--config", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" says ") == shipped.count("[[listen]]") > 0
