"""README.md and docs/ are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.installed import Installed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    ("command", "section"),
    [(("twistd", "greetsvc"), "The server"), (("greet",), "The client")],
    ids=["server", "client"],
)
def test_the_tables_list_exactly_the_options_of_the_program(
    installed: Installed, tmp_path: Path, command: tuple[str, ...], section: str
) -> None:
    there_are = re.findall(r"^ +(--?[\w-]+)", installed.run(tmp_path, *command, "--help").stdout, re.MULTILINE)
    part = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| `-")]
    assert {option for row in rows for option in re.findall(r"`(--?[\w-]+)", row.split("|")[1])} == set(there_are)


def test_the_settings_of_the_readme_are_accepted(installed: Installed, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.toml").write_text(example.replace(":8088", ":0"))
    done = installed.run(tmp_path, "twistd", "greetsvc", "--check", "--config", "example.toml")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if path.startswith("https:"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in _headings(target)]
        assert not heading or heading in headings, link


def _headings(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("#")] if page.is_file() else []
