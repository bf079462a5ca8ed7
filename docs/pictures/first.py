"""Draws the picture at the top of the README: ``python docs/pictures/first.py``.

A terminal with what `greet` says of two faults, in the words of docs/lost-packets.md, which a test compares with
`greet`; and a capture of the live page, ``live-page.png``. The file is kept; a test compares it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from pathlib import Path
from textwrap import wrap

HERE = Path(__file__).parent
COLUMNS, LINE, LETTER, MARGIN = 84, 18, 7.83, 16
PAGE, SEEN, CAPTURE = (440, 390), "0 0 1000 886", (1016, 1180)
"""The page in the picture, the part of the capture that is seen, and the size of the capture, in pixels."""
STYLE = """
.terminal{fill:#10151c} .bar{fill:#2a323d} .page{fill:none;stroke:#8a94a3}
text{font:13px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d5dbe3;white-space:pre}
.command{fill:#fff;font-weight:600} .told{fill:#f5c26b}
"""


def shown() -> list[tuple[str, str]]:
    """The lines of the terminal, each with its kind."""
    page = (HERE.parent / "lost-packets.md").read_text(encoding="utf-8")
    lost, stopped, *_ = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines: list[tuple[str, str]] = []
    for line in f"{stopped}{lost}".splitlines():
        kind = "command" if line.startswith("$ ") else "told" if line.startswith("greet: ") else "said"
        if line != "…" or lines[-1][1] != "…":
            lines += [(kind, part) for part in wrap(line, COLUMNS, subsequent_indent="  ", drop_whitespace=False)]
    return lines[:-1]  # the last one says that there is more


def draw() -> str:
    """The picture."""
    lines = shown()
    wide, tall = round(COLUMNS * LETTER + 2 * MARGIN), max(len(lines) * LINE + 56, PAGE[1])
    text = "\n".join(
        f'<text class="{kind}" x="{MARGIN}" y="{50 + at * LINE}">{escape(line)}</text>'
        for at, (kind, line) in enumerate(lines)
    )
    live = b64encode((HERE / "live-page.png").read_bytes()).decode()
    at = f'x="{wide + 16}" y="{(tall - PAGE[1]) // 2}" width="{PAGE[0]}" height="{PAGE[1]}"'
    image = f'<image width="{CAPTURE[0]}" height="{CAPTURE[1]}" href="data:image/png;base64,{live}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide + PAGE[0] + 17} {tall}" role="img">'
        f"<title>greet in a terminal: where packets stop, and on which way they are lost; and the live page</title>"
        f'<style>{STYLE}</style><rect class="terminal" width="{wide}" height="{tall}" rx="9"/>'
        f'<path class="bar" d="M0 28V9a9 9 0 0 1 9-9H{wide - 9}a9 9 0 0 1 9 9V28z"/>'
        f'{text}\n<svg {at} viewBox="{SEEN}">{image}</svg><rect class="page" {at}/></svg>\n'
    )


def files() -> dict[Path, str]:
    """The picture, by its file."""
    return {HERE / "first.svg": draw()}


if __name__ == "__main__":
    for path, picture in files().items():
        path.write_text(picture, encoding="utf-8")
