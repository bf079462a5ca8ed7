"""What an operator says to a running HAProxy, at its ``stats socket``."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support.waiting import PATIENCE


def tell(path: Path, command: str) -> None:
    """Say ``command``; HAProxy answers nothing where nothing is wrong."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(PATIENCE)
        admin.connect(str(path))
        admin.sendall(f"{command}\n".encode())
        assert not admin.recv(1000).strip()
