"""The commands and programs that the documents show print what the documents show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import PAGES, ROOT, blocks, follow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Namespace
    from tests.support.installed import Installed

ALONE = [ROOT / "docs" / "from-sockets.md"]
"""Pages that start their servers themselves; for the others the service runs on its default ports."""


TESTED = [ROOT / "docs" / name for name in ("extending.md", "python.md")]
"""Pages whose Python tests/docs/test_public_names.py and tests/client/load/test_run.py run."""
SHOWING = [page for page in PAGES if any(block.kind == "console" and not block.by for block in blocks(page))]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_the_commands_of_the_documents_print_what_they_show(
    installed: Installed, namespace: Namespace, page: Path
) -> None:
    variables = installed.environment({"PATH": f"{installed.bin}{os.pathsep}{os.environ['PATH']}"})
    if page not in ALONE:
        namespace.start(str(installed.bin / "greetsvc"), until="Server start", times=4)
    (namespace.folder / ".venv").symlink_to(installed.bin.parent)
    follow([block for block in blocks(page) if block.kind == "console" or page not in TESTED], namespace, variables)
