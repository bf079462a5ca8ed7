"""Attackers come from all over 127.0.0.0/8; only Linux gives all of it to the loopback interface."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture
def megabyte(tmp_path: Path) -> str:
    """A greeting that is larger than a socket buffer."""
    path = tmp_path / "megabyte"
    path.write_bytes(b"x" * 1_000_000)
    return f"file:{path}"
