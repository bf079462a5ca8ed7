"""The client in an asyncio program: it works as the document says, and otherwise says what is missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "coroutine",
    [
        "greetsvc.greet('127.0.0.1:1')",
        "greetsvc.greet_ex('udp:127.0.0.1:1')",
        "greetsvc.Run('127.0.0.1:1', duration=1).go()",
        "anext(greetsvc.greet_many('127.0.0.1:1', count=1))",
    ],
)
@pytest.mark.parametrize("first", ["", "from twisted.internet import reactor"])
def test_without_the_right_reactor_the_error_says_which_is_needed_and_how(coroutine: str, first: str) -> None:
    code = f"{first}\nimport asyncio, greetsvc\nasync def main():\n    await {coroutine}\nasyncio.run(main())"
    done = run(code)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: greetsvc runs on Twisted's reactor")
    assert "twisted.internet.asyncioreactor" in last
    assert "asFuture" in last


def test_the_example_of_the_document_runs(peers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall(b"hello, asyncio\r\n"))
    section = DOCUMENT.read_text().partition("## asyncio\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ") or not line]
    code = textwrap.dedent("\n".join(lines)).replace("127.0.0.1:8088", target)
    done = run(code)
    assert (done.stdout.splitlines()[:1], done.stderr) == (["hello, asyncio"], "")
