"""Plugins of others, installed as `pip` would do it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a module with protocols: ``install(source, name="Class")``. Returns the folder."""
    names: list[str] = []

    def add(source: str, **protocols: str) -> Path:
        module = f"acme_{len(names)}_{tmp_path.name.replace('-', '_')}"
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{value}\n" for name, value in protocols.items()]
        (info / "entry_points.txt").write_text("".join(["[greetsvc.protocols]\n", *lines]))
        (tmp_path / f"{module}.py").write_text(source)
        if not names:
            monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        names.append(module)
        return tmp_path

    yield add
    for name in names:
        sys.modules.pop(name, None)
