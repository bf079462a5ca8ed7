"""The folder that all processes of a test run share: pytest, the workers of pytest-xdist, and what they start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

_VARIABLE = "GREETSVC_TESTS_FOLDER"

OURS = _VARIABLE not in os.environ
"""Whether this process made the folder, and removes it."""

# Not in pytest's own folder: another user, which some tests become, may not look into that.
FOLDER = Path(os.environ.get(_VARIABLE) or tempfile.mkdtemp(prefix="greetsvc-tests-"))
FOLDER.chmod(0o755)
os.environ[_VARIABLE] = str(FOLDER)

MEASURED = FOLDER / "coverage"
"""Where programs write what they measured; see `tests.support.measured`."""
if OURS:
    MEASURED.mkdir()
    MEASURED.chmod(0o1777)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder."""
    return FOLDER


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Give pytest-cov what programs have measured, before it reports."""
    result = yield
    if OURS:
        for file in MEASURED.iterdir():
            shutil.move(file, session.config.rootpath)
    return result


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Remove the folder."""
    if OURS:
        shutil.rmtree(FOLDER, ignore_errors=True)
