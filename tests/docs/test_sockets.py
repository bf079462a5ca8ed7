"""*From sockets to Twisted* says the same in both languages. tests/lab/test_documents.py runs its programs."""

from __future__ import annotations

import runpy

from tests.support.documents import ROOT, blocks

PAGE, CHINESE = ROOT / "docs" / "from-sockets.md", ROOT / "docs" / "zh-TW" / "from-sockets.md"


def test_the_chinese_page_has_the_same_programs() -> None:
    assert [block.text for block in blocks(CHINESE)] == [block.text for block in blocks(PAGE)]


def test_the_pictures_are_those_that_the_program_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "pictures" / "sockets.py"))["files"]()
    assert {path: path.read_text(encoding="utf-8") for path in drawn} == drawn
