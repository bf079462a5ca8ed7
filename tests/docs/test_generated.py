"""The manual pages and the completions are those that the options of the commands give, and they are in the wheel."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy import generate

if TYPE_CHECKING:
    from tests.support.installed import Installed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", generate.files())
def test_a_generated_file_is_up_to_date(name: str) -> None:
    """``make generated`` writes it again."""
    assert (ROOT / "deploy" / name).read_text("utf-8") == generate.files()[name]


def test_there_are_no_others_and_the_wheel_has_them_all(installed: Installed) -> None:
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["shared-data"]
    there_are = {
        f"{folder}/{path.name}" for folder in ("man", "completion") for path in (ROOT / "deploy" / folder).iterdir()
    }
    assert there_are == set(generate.files())
    assert {f"deploy/{name}" for name in there_are} == set(shared)
    for name, place in shared.items():
        assert (installed.bin.parent / place).read_text("utf-8") == (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in generate.files() if name.startswith("man/")])
def test_no_line_of_a_manual_page_is_taken_for_another_request(name: str) -> None:
    requests = re.findall(r"^[.'](\w*)", (ROOT / "deploy" / name).read_text("utf-8"), re.MULTILINE)
    assert set(requests) <= {"TH", "SH", "TP", "PP"}
