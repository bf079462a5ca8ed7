"""The systemd units that come with the package, with the command of this installation in them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

__all__ = ["UNITS", "unit"]

UNITS = ("service", "socket")

_COMMAND = "/opt/greetsvc/bin/greetsvc"
"""The command in the file."""

_HOMES = ("/home/", "/root/", "/run/user/")
"""What ProtectHome= hides from the service."""


def unit(kind: str) -> str:
    """The text of the unit of this kind."""
    text = (Path(__file__).parent / "units" / f"greetsvc.{kind}").read_text("utf-8").rstrip("\n")
    if _COMMAND not in text:
        return text
    command = _command()
    python = os.path.realpath(sys.executable)
    hidden = next((path for path in (command[0], python) if path.startswith(_HOMES)), None)
    note = f"# {hidden} is hidden from this service: install greetsvc elsewhere, or set ProtectHome=no.\n"
    return (note if hidden else "") + text.replace(_COMMAND, " ".join(map(_word, command)))


def _command() -> list[str]:
    """How this installation is called, with absolute paths."""
    import sysconfig  # a start of the service does not need it

    for path in (sys.argv[0], f"{sysconfig.get_path('scripts')}/greetsvc"):
        if os.path.basename(path) == "greetsvc" and os.access(path, os.X_OK):  # noqa: PTH119
            return [os.path.abspath(path)]  # noqa: PTH100 - keeps links, which an update may change
    return [sys.executable, "-m", "greetsvc"]


def _word(text: str) -> str:
    """A word of a command line of systemd.service(5)."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[\s\"'\\;]", text) else text
