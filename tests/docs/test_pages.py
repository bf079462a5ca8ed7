"""*From sockets to Twisted* is the same in both languages, and pictures are up to date. The lab runs the rest."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks

PAGE, CHINESE = ROOT / "docs" / "from-sockets.md", ROOT / "docs" / "zh-TW" / "from-sockets.md"


def test_the_chinese_page_has_the_same_programs() -> None:
    assert [block.text for block in blocks(CHINESE)] == [block.text for block in blocks(PAGE)]


@pytest.mark.parametrize("program", sorted((ROOT / "docs" / "pictures").glob("*.py")), ids=lambda path: path.stem)
def test_the_pictures_are_those_that_the_program_draws(program: Path) -> None:
    drawn = runpy.run_path(str(program))["files"]()
    assert {path: path.read_text(encoding="utf-8") for path in drawn} == drawn
