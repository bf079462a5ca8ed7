"""The servers that are measured, each as small as its kind allows; all of them greet with the same 26 bytes."""

from __future__ import annotations

GREETING = b"Thank you for connecting\r\n"
HOST = "127.0.0.1"
BACKLOG = 4096
"""For everybody but the tutorial: 50 and 100 (the defaults of Twisted and asyncio) would measure lost SYNs."""


def ready(port: int) -> None:
    """Say where the server listens; the bench waits for this line."""
    print(f"Server start at port: {port}", flush=True)
