"""The live page as a file: it needs nothing else, and its policy allows nothing else."""

from __future__ import annotations

import re

from greetsvc.admin.page import Page, policy_of


def test_the_page_names_no_other_place() -> None:
    """A browser would ask it. The namespaces of SVG are names, which nobody asks."""
    addresses = re.findall(r"[a-z]+://[^'\")\s]+", Page.load().html)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_pages_own_style_and_script_by_their_hash() -> None:
    policy = dict(rule.split(" ", 1) for rule in Page.load().policy.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert all(re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[f"{kind}-src"]) for kind in ("style", "script"))
    assert "unsafe" not in Page.load().policy


def test_another_script_has_another_hash() -> None:
    assert policy_of("<script>a()</script>") != policy_of("<script>b()</script>")


def test_nothing_that_comes_from_outside_becomes_html() -> None:
    html = Page.load().html
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", html)
    assert not re.search(r"\son[a-z]+=|\sstyle=", html)
