"""The live page: one file of HTML that needs nothing else, and the policy that holds a browser to that."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from attrs import frozen

__all__ = ["Page"]

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@frozen
class Page:
    """``html`` is the page; ``policy`` its Content-Security-Policy, which allows its own style and script only."""

    html: str
    policy: str

    @classmethod
    def load(cls) -> Page:
        """The page that comes with the package."""
        html = files("greetsvc.admin").joinpath("page.html").read_text("utf-8")
        return cls(html, policy_of(html))


def policy_of(html: str) -> str:
    """The strictest policy with which a page works: scripts and styles by their hash, requests to its own origin."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _INLINE.findall(html):
        hashes[kind].append(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(hashes['style'])}",
            f"script-src {' '.join(hashes['script'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
