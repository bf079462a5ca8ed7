"""The commands and programs that the documents show print what the documents show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import PAGES, ROOT, blocks, follow
from tests.support.installed import install_dependencies

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Namespace
    from tests.support.installed import Installed

ALONE = [ROOT / "docs" / name for name in ("from-sockets.md", "talk.md")]
"""Pages that start their servers themselves; for the others the service runs on its default ports."""
TUTORIAL = ROOT / "docs" / "your-own-protocol.md"
TESTED = [ROOT / "docs" / name for name in ("extending.md", "python.md")]
"""Pages whose Python tests/docs/test_public_names.py and tests/client/load/test_run.py run."""
SHOWING = [
    page
    for page in PAGES
    if page != TUTORIAL
    and "zh-TW" not in page.parts  # tests/docs/test_sockets.py says that its blocks are those of the English page
    and any(block.kind == "console" and not block.by for block in blocks(page))
]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_the_commands_of_the_documents_print_what_they_show(
    installed: Installed, namespace: Namespace, page: Path
) -> None:
    variables = installed.environment({"PATH": f"{installed.bin}{os.pathsep}{os.environ['PATH']}"})
    if page not in ALONE:
        namespace.start(str(installed.bin / "greetsvc"), until="Server start", times=4)
    (namespace.folder / ".venv").symlink_to(installed.bin.parent)
    follow([block for block in blocks(page) if block.kind == "console" or page not in TESTED], namespace, variables)


def test_the_tutorial_ends_with_passing_tests_and_a_running_daemon(
    installed: Installed, namespace: Namespace
) -> None:
    """Its text, followed to the letter in an empty folder that has a checkout in it."""
    (namespace.folder / "greetsvc").symlink_to(ROOT)
    # An environment that has what greetsvc needs, as if an index were there; the page's own command completes it.
    install_dependencies(namespace.folder / "weekday" / ".venv")
    # pip reads "0" as: no isolation, so hatchling need not be fetched.
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    follow(blocks(TUTORIAL), namespace, installed.environment(pip))
