"""Draws the picture of *From sockets to Twisted* in each language: ``python docs/pictures/sockets.py``.

Server calls are on the left and client calls on the right, each with its module of greetsvc; what crosses the network
is between them. The files are kept, so that the pages can be read without a build; a test compares them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from html import escape
from pathlib import Path

WIDTH, TOP, TALL, BOX, HIGH = 640, 24, 732, 224, 46
LEFT, RIGHT = 12, WIDTH - 12 - BOX
STYLE = """
.page{fill:#f8f9fb;stroke:#c9ced6} .box{fill:#fff;stroke:#8a94a3} .kernel{fill:#e8f1ff;stroke:#5b8bd0}
text{font:13px system-ui,"PingFang TC","Microsoft JhengHei","Noto Sans CJK TC",sans-serif;fill:#1d2430}
.call{font:600 16px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace} .module{fill:#4b5566}
.head{font-size:17px;font-weight:600} .wire{stroke:#1a5fb4;stroke-width:1.6;fill:none} .tip{fill:#1a5fb4}
.next{stroke:#8a94a3;stroke-width:1.4} .told{fill:#1a5fb4}
@media(prefers-color-scheme:dark){.page{fill:#171b21;stroke:#3a424e} .box{fill:#222831;stroke:#6d7787}
.kernel{fill:#1c2c44;stroke:#5b8bd0} text{fill:#e8ebf0} .module{fill:#aeb7c4} .wire{stroke:#78aeed}
.tip,.told{fill:#78aeed}}
"""
WORDS = {
    "en": {
        "title": "The socket calls of a server and a client, and the module of greetsvc where each is",
        "server": "server",
        "client": "client",
        "queue": "the kernel: queue of connections",
        "greeting": "greeting, FIN",
        "request": "request",
        "answer": "greeting",
    },
    "zh-TW": {
        "title": "伺服器與用戶端的 socket 呼叫，以及它們各自在 greetsvc 的哪個模組",
        "server": "伺服器",
        "client": "用戶端",
        "queue": "核心：等待接受的連線佇列",
        "greeting": "問候語、FIN",
        "request": "請求",
        "answer": "問候語",
    },
}


def box(x: int, y: int, call: str, module: str, kind: str = "box") -> str:
    """One call, and where it is."""
    middle = x + BOX // 2
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="7"/>'
        f'<text class="call" x="{middle}" y="{y + 20}" text-anchor="middle">{escape(call)}</text>'
        f'<text class="module" x="{middle}" y="{y + 37}" text-anchor="middle">{escape(module)}</text>'
    )


def down(x: int, y: int, end: int) -> str:
    """From one call to the next."""
    return f'<path class="next" d="M{x + BOX // 2} {y}V{end}"/>'


def over(y: int, words: str, *, to_server: bool) -> str:
    """What crosses the network."""
    near, far = LEFT + BOX + 6, RIGHT - 6
    tip = f"M{near} {y}l9 -5v10z" if to_server else f"M{far} {y}l-9 -5v10z"
    return (
        f'<path class="wire" d="M{near} {y}H{far}"/><path class="tip" d="{tip}"/>'
        f'<text class="told" x="{WIDTH // 2}" y="{y - 5}" text-anchor="middle">{escape(words)}</text>'
    )


def column(x: int, calls: list[tuple[int, str, str]]) -> Iterator[str]:
    """The calls of one side, from top to bottom."""
    for (y, *_), (below, *_) in itertools.pairwise(calls):
        yield down(x, y + HIGH, below)
    for y, call, module in calls:
        yield box(x, y, call, module)


def draw(language: str) -> str:
    """The picture."""
    words = WORDS[language]
    parts = [
        *column(
            LEFT,
            [
                (78, "socket", "net/sockets"),
                (140, "bind", "net/sockets"),
                (202, "listen", "net/sockets"),
                (324, "accept", "net/stream/listener"),
                (386, "send", "net/stream/transport"),
                (448, "close", "net/linger/sweep"),
            ],
        ),
        *column(
            RIGHT,
            [
                (140, "socket", "client/probe/sockets"),
                (202, "connect", "client/probe/stream"),
                (386, "recv", "client/probe/stream"),
                (448, "close", "client/probe/stream"),
            ],
        ),
        f'<rect class="kernel" x="{LEFT}" y="264" width="{BOX}" height="34" rx="7"/>',
        f'<text x="{LEFT + BOX // 2}" y="286" text-anchor="middle">{escape(words["queue"])}</text>',
        over(222, "SYN", to_server=True),
        over(252, "SYN, ACK", to_server=False),
        over(282, "ACK", to_server=True),
        over(412, words["greeting"], to_server=False),
        over(474, "FIN", to_server=True),
        *column(
            LEFT,
            [
                (566, "socket, bind", "net/sockets"),
                (628, "recvfrom", "net/datagram/batched"),
                (690, "sendto", "server/udp_policy"),
            ],
        ),
        *column(
            RIGHT,
            [
                (566, "socket", "client/probe/datagram"),
                (628, "sendto", "client/probe/datagram"),
                (690, "recvfrom", "client/probe/datagram"),
            ],
        ),
        over(654, words["request"], to_server=True),
        over(716, words["answer"], to_server=False),
    ]
    heads = [
        f'<text class="head" x="{x}" y="{y}" text-anchor="middle">{escape(head)}</text>'
        for y, transport in ((58, "TCP"), (548, "UDP"))
        for x, head in (
            (LEFT + BOX // 2, words["server"]),
            (WIDTH // 2, transport),
            (RIGHT + BOX // 2, words["client"]),
        )
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {TOP} {WIDTH} {TALL}" width="{WIDTH}" height="{TALL}" '
        f'role="img" xml:lang="{language}"><title>{escape(words["title"])}</title><style>{STYLE}</style>'
        f'<rect class="page" x=".5" y="{TOP}.5" width="{WIDTH - 1}" height="{TALL - 1}" rx="10"/>'
        + "\n".join([*heads, *parts])
        + "</svg>\n"
    )


def files() -> dict[Path, str]:
    """Each picture, by its file."""
    folder = Path(__file__).parent
    return {folder / f"sockets.{language}.svg": draw(language) for language in WORDS}


if __name__ == "__main__":
    for path, picture in files().items():
        path.write_text(picture, encoding="utf-8")
