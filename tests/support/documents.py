"""What the documents show: their code blocks, and a shell that runs the commands as a reader would."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.lab.conftest import Namespace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?ms)(?:^<!-- tested by (?P<by>[^\n]+) -->\n+)?^```(?P<kind>\S*)(?: [^\n]*)?\n(?P<text>.*?)^```$"
)
_PROMPT = re.compile(r"[$#] (.*)")


@frozen
class Block:
    """A fenced block. ``by`` names the test that covers it, where a comment before it says so."""

    kind: str
    text: str
    by: str

    @property
    def file(self) -> str:
        """The file that it is, from a comment in its first line: ``# name.py``."""
        name = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return name[1] if name else ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command that is shown, with the output that is shown below it."""
        command, output = "", ""
        for line in self.text.splitlines():
            prompt = _PROMPT.fullmatch(line)
            if prompt and command:
                yield command, output
            if prompt:
                command, output = prompt[1], ""
            else:
                output += f"{line}\n"
        yield command, output


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(found["kind"], found["text"], found["by"] or "")
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


_NUMBER = r"(?<![\da-f])(?=[a-f]*\d)(?>[\da-f]+(?:[.:][\da-f]+)*)(?! passed| skipped)"


def shows(shown: str, output: str) -> bool:
    """Whether the output is what is shown: numbers may differ, ``…`` is any text, and a line of it any lines.

    How many tests passed and were skipped may not differ.
    """
    pattern = ""
    for line in shown.strip().splitlines():
        parts = (_NUMBER.join(map(re.escape, re.split(_NUMBER, part))) for part in line.split("…"))
        pattern += r"(?:.*\n)*" if line == "…" else ".*".join(parts) + "\n"
    return re.fullmatch(pattern, f"{output.strip()}\n") is not None


# A program in the background is ready when it listens; a look at /proc does not disturb it as a connection would.
_READY = """
ready() {
    for port; do
        for _ in $(seq 600); do
            grep -q ":$(printf %04X "$port") 0*:0000 0A" /proc/net/tcp /proc/net/tcp6 && continue 2
            sleep 0.05
        done
        echo "nothing listens on port $port"
    done
}
"""


# Python that a page shows without the lines around it may await.
_AWAIT = """
import ast
from twisted.internet.defer import Deferred
from twisted.internet.task import react
code = compile({!r}, "the page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
react(lambda reactor: Deferred.fromCoroutine(eval(code, {{}})))
"""


def follow(page: Iterable[Block], namespace: Namespace, variables: Mapping[str, str]) -> None:
    """Do what a page says from top to bottom: write its files, and run its commands in one shell.

    A command must print what is shown below it, where something is shown, and else must succeed. Blocks that another
    test covers are left out. What runs in the background at the end is killed.
    """
    script, expected = ["set -m", "trap 'kill $(jobs -p) 2>/dev/null' EXIT", _READY], []
    for block in page:
        if block.by:
            continue
        if block.file:
            # In the order of the page: it may change a file, or its folder, later.
            script += [f"cat > {block.file} <<'END OF FILE'", f"{block.text}END OF FILE"]
        elif block.kind == "python":
            (namespace.folder / "block.py").write_text(_AWAIT.format(block.text))
            expected.append(("the Python of the page", ""))
            script += ["python3 block.py", "echo ====$?"]
        elif block.kind == "console":
            for command, shown in block.commands():
                expected.append((command, shown))
                script += [command, "echo ====$?"]
                if command.endswith("&"):
                    script.append(" ".join(["ready 8088", *re.findall(r"tcp:(\d+)", command)]))
                elif command.startswith(("kill %", "kill $!")):
                    script.append("wait 2>/dev/null")
    with (namespace.folder / "output").open("w") as file, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            namespace.command("bash", "-c", "\n".join(script)),
            cwd=namespace.folder,
            env={**variables, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=3 * PATIENCE,
            check=False,
        )
    said = (namespace.folder / "output").read_text(encoding="utf-8")
    said = re.sub(r"^\[\d\][+ -] .*\n", "", said, flags=re.MULTILINE)  # the shell, of a program that has ended
    printed = re.split(r"^====(\d+)\n", said, flags=re.MULTILINE)
    assert len(printed) == 2 * len(expected) + 1, said
    for (command, shown), came, status in zip(expected, printed[::2], printed[1::2], strict=False):
        assert shows(shown, came) if shown.strip() else status == "0", f"$ {command}\n{came}\ninstead of\n{shown}"
