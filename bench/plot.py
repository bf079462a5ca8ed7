"""The three plots, as small SVG files. Pure: results in, text out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.peers import (
    ASYNCIO,
    BARE,
    FLOOR,
    GREETSVC,
    GREETSVC_OWN,
    NGINX,
    STOCK,
    TUTORIAL,
    TWO_WORKERS,
    UVLOOP,
    WATCHED,
)
from bench.plan import AT_RATE, STEADY, name_of
from bench.results import SHARES, Results
from bench.sample import percentile

WIDTH = 860
LEFT, RIGHT = 60, WIDTH - 30
OURS, OTHERS = "#0072b2", "#b0b8c0"
COLOURS = {
    GREETSVC: OURS,
    TWO_WORKERS: "#56b4e9",
    WATCHED: "#8ab8d6",
    GREETSVC_OWN: "#f0e442",
    STOCK: "#d55e00",
    ASYNCIO: "#e69f00",
    UVLOOP: "#009e73",
    NGINX: "#cc79a7",
    TUTORIAL: "#7f7f7f",
    BARE: "#56b4e9",
    FLOOR: "#000000",
}
"""Okabe and Ito's, which colour-blind readers can tell apart."""


def text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, size: int = 13) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#d8dde2", width: float = 1) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width}" fill="none"/>'


def document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" fill="#1f2328"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    )
    return "\n".join([head, text(16, 26, title, bold=True, size=16), *parts, "</svg>"]) + "\n"


def cpu(results: Results) -> str:
    """Bars: what one greeting costs each server, with the lowest and highest round."""
    parts: list[str] = []
    y = 44.0
    for transport in ("tcp", "udp"):
        found = [(peer, results.cpu(transport, peer, name_of(STEADY))) for peer in results.peers(transport)]
        bars = sorted(((peer, value) for peer, value in found if value), key=lambda bar: bar[1].median)
        if not bars:
            continue
        scale = (WIDTH - 300) / max(value.high for _, value in bars)
        y += 14
        parts.append(text(16, y, transport.upper(), bold=True))
        for peer, value in bars:
            y += 24
            end = 200 + value.median * scale
            parts += [
                text(192, y, peer, anchor="end", bold=peer.startswith(GREETSVC)),
                f'<rect x="200" y="{y - 12:.1f}" width="{end - 200:.1f}" height="16" '
                f'fill="{OURS if peer.startswith(GREETSVC) else OTHERS}"/>',
                line(200 + value.low * scale, y - 4, 200 + value.high * scale, y - 4, "#1f2328", 1.5),
                text(max(end, 200 + value.high * scale) + 8, y, f"{value.median * 1e6:.1f} µs"),
            ]
        y += 22
    return document("Server CPU for one greeting: less is better", y + 6, parts)


class _Log:
    """A logarithmic axis from ``low`` to ``high`` over the pixels ``start`` to ``end``."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low = math.log10(low)
        self._scale = (end - start) / (math.log10(high) - self._low)
        self._start = start
        self.decades = [10.0**power for power in range(math.ceil(self._low), math.floor(math.log10(high)) + 1)]

    def __call__(self, value: float) -> float:
        return self._start + (math.log10(value) - self._low) * self._scale


def _unit(seconds: float) -> str:
    return (
        f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} µs"
    )


def latency(results: Results) -> str:
    """Four dots for each server, p50 to p99.9, on a logarithmic axis."""
    rows: list[tuple[str, str, list[float]]] = []
    for transport in ("tcp", "udp"):
        for peer in results.peers(transport):
            buckets = results.latency(transport, peer, AT_RATE)
            if buckets:
                rows.append((transport, peer, [percentile(buckets, share) for share in SHARES.values()]))
    if not rows:
        return document("Latency: not measured", 50, [])
    marks = [mark for _, _, found in rows for mark in found if mark > 0]
    axis = _Log(min(marks) * 0.8, max(marks) * 1.25, 240, WIDTH - 30)
    height = 76 + 22 * len(rows) + 20
    parts = [text(16, 46, "at 5,000 a second; dots: p50, p90, p99, p99.9")]
    for decade in axis.decades:
        parts += [
            line(axis(decade), 58, axis(decade), height - 24),
            text(axis(decade), height - 8, _unit(decade), anchor="middle"),
        ]
    for number, (transport, peer, found) in enumerate(rows):
        y = 76 + 22 * number
        colour = OURS if peer.startswith(GREETSVC) else "#6e7781"
        parts.append(text(232, y, f"{peer}, {transport.upper()}", anchor="end", bold=peer.startswith(GREETSVC)))
        parts.append(line(axis(found[0]), y - 4, axis(found[-1]), y - 4, colour, 2))
        parts += [f'<circle cx="{axis(mark):.1f}" cy="{y - 4}" r="4" fill="{colour}"/>' for mark in found]
    return document("How long a peer waits", height, parts)


def growth(results: Results) -> str:
    """Lines: CPU for one greeting as the number of peers grows, TCP."""
    levels = [name for name in results.scenarios("tcp") if name.endswith((" peer", " peers"))]
    lines = []
    for peer in results.peers("tcp"):
        points = [(int(level.split()[0]), results.cpu("tcp", peer, level)) for level in levels]
        known = [(peers, value.median) for peers, value in points if value]
        if known:
            lines.append((peer, known))
    if not lines or len(levels) < 2:
        return document("Growth: not measured", 50, [])
    across = _Log(1, 10_000, 60, WIDTH - 210)
    top = max(value for _, known in lines for _, value in known) * 1.05
    bottom, height = 380.0, 420.0

    def down(value: float) -> float:
        return bottom - value / top * (bottom - 56)

    parts = []
    step = 10 ** math.floor(math.log10(top * 1e6 / 2)) / 1e6
    for number in range(int(top / step) + 1):
        parts += [
            line(60, down(number * step), WIDTH - 210, down(number * step)),
            text(52, down(number * step) + 4, f"{number * step * 1e6:g} µs", anchor="end"),
        ]
    parts += [text(across(decade), bottom + 20, f"{decade:,.0f}", anchor="middle") for decade in across.decades]
    taken: list[float] = []
    for peer, known in sorted(lines, key=lambda line: -line[1][-1][1]):
        colour = COLOURS[peer]
        path = "L".join(f"{across(peers):.1f} {down(value):.1f}" for peers, value in known)
        parts.append(
            f'<path d="M{path}" stroke="{colour}" stroke-width="{3 if peer == GREETSVC else 1.8}" fill="none"/>'
        )
        y = max([down(known[-1][1]) + 4, *[other + 17 for other in taken]])
        taken.append(y)
        parts += [
            line(across(known[-1][0]), down(known[-1][1]), WIDTH - 196, y - 4, colour),
            text(WIDTH - 192, y, peer, bold=peer == GREETSVC),
        ]
    return document(
        "Server CPU for one TCP greeting, from 1 to 10,000 concurrent peers",
        max(height, *[y + 20 for y in taken]),
        parts,
    )
