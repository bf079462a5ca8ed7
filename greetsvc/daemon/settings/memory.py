"""How much memory this process may use (cgroups(7)), and how much a connection takes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PER_CONNECTION", "PER_TALKING", "SHARE_OF_MEMORY", "memory_limit"]

PER_CONNECTION = 96 * 1024
"""Bytes that one connection may cost, in this process and in the kernel's buffers.

A TLS handshake that stops half-way takes 90 KiB, and a peer that does not read a long greeting 76 KiB (measured).
"""

PER_TALKING = 256 * 1024
"""The same of a protocol that goes on talking.

A peer that sends and does not read takes up to 190 KiB in this process (measured): what was received, the messages
in it, and answers.
"""

SHARE_OF_MEMORY = 0.75
"""The share of the memory that connections may use. The program itself takes 60 MB."""


def memory_limit(root: Path = Path("/")) -> int:
    """The memory of this machine in bytes, or less: the lowest limit of the control groups around this process.

    ``root`` is where the file systems proc and sys are.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            place, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            place, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = place / path.lstrip("/")
        # A container may see the path of its host: then only the place itself exists.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(place):
                break
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # no such limit, or "max"
                continue
