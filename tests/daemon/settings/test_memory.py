"""How much memory there is: the machine's, or what the control groups leave."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from greetsvc.daemon import defaults
from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.memory import PER_CONNECTION, SHARE_OF_MEMORY, memory_limit

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
UNIT = Path(__file__).parents[3] / "deploy" / "greetsvc.service"


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/system.slice/greetsvc.service", {"system.slice/greetsvc.service/memory.max": "536870912"}, 512 * MIB),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": str(64 * MIB)}, 64 * MIB),
        ("0::/a/b", {"a/b/memory.max": str(32 * MIB), "a/memory.max": str(64 * MIB)}, 32 * MIB),
        ("0::/../host/path", {"memory.max": str(128 * MIB)}, 128 * MIB),
        ("0::/", {"memory.max": str(48 * MIB)}, 48 * MIB),
        ("4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": str(16 * MIB)}, 16 * MIB),
        ("3:cpu,memory:/job", {"memory/memory.limit_in_bytes": str(8 * MIB)}, 8 * MIB),
        ("4:memory:/", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, PHYSICAL),
        ("5:cpu:/a", {"memory/a/memory.limit_in_bytes": "1"}, PHYSICAL),
        ("0::/a", {"a/memory.max": "max"}, PHYSICAL),
        (None, {"memory.max": "1"}, PHYSICAL),
    ],
)
def test_the_lowest_limit_around_the_process_counts(
    cgroup: str | None, limits: dict[str, str], expected: int, tmp_path: Path
) -> None:
    files = {f"sys/fs/cgroup/{name}": limit for name, limit in limits.items()}
    if cgroup is not None:
        files["proc/self/cgroup"] = cgroup
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert memory_limit(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "memory", "most"),
    [
        (65536, 512 * MIB, 4096),
        (1024, 512 * MIB, 921),
        (65536, 64 * 1024 * MIB, 58982),
        (65536, 1, 1),
    ],
)
def test_the_default_of_max_connections_fits_files_and_memory(
    files: int, memory: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "raise_limit", lambda: files)
    monkeypatch.setattr(defaults, "memory_limit", lambda: memory)
    assert defaults.limits_of(settings({}))[0].max_connections == most
    assert defaults.limits_of(settings({"max-connections": 70000}))[0].max_connections == 70000


def test_the_default_fits_the_memory_of_the_unit() -> None:
    (megabytes,) = re.findall(r"^MemoryMax=(\d+)M$", UNIT.read_text(), re.MULTILINE)
    memory = int(megabytes) * MIB
    connections = int(memory * SHARE_OF_MEMORY) // PER_CONNECTION
    assert connections * PER_CONNECTION + 64 * MIB <= memory
