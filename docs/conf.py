"""The site of the documents (`make docs`): Sphinx, MyST for Markdown, and furo, with nothing of other hosts."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from greetsvc import __version__

project = "greetsvc"
author = "the greetsvc authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["captures"]
default_role = "py:obj"  # a name in single backticks in a docstring
myst_heading_anchors = 4
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"greetsvc {release}"
html_copy_source = False
html_show_copyright = False

OUTSIDE = {
    "README.md#the-server": "server.md",
    "README.md#the-client": "client.md",
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/results/results.md": "measurements.md",
    "examples/": "examples.md",
    "deploy/": "deploy.md",
}
"""What lies outside this folder, and the page that shows it or what is in it. Other files become downloads."""


def link_pages(_app: Sphinx, page: str, source: list[str]) -> None:
    """Let links out of the folder, which are for those who read the files as they are, lead to pages of the site."""

    def lead(link: re.Match[str]) -> str:
        path, heading = link.groups("")
        if path.endswith("/"):
            path = f"{path.partition('/')[0]}/"
        shown_by = OUTSIDE.get(path + heading) or (path in OUTSIDE and f"{OUTSIDE[path]}{heading}")
        return f"]({'../' * page.count('/')}{shown_by})" if shown_by else link[0]

    source[0] = re.sub(r"\]\((?:\.\./)+([\w./-]+)(#[\w-]+)?\)", lead, source[0])


def tell_language(_app: Sphinx, page: str, _template: str, context: dict[str, object], _tree: object) -> None:
    """Give a page in a folder such as zh-TW that language, for fonts, line breaks and screen readers."""
    folder, slash, _ = page.partition("/")
    if slash and re.fullmatch(r"[a-z]{2}-[A-Z]{2}", folder):
        context["language"] = folder


def name_interfaces(_app: Sphinx, *event: str | None) -> tuple[str | None, str | None]:
    """Write a zope interface in a signature by its name, not by its repr."""
    *_, arguments, result = event
    short = [each and re.sub(r"<InterfaceClass [\w.]*?(\w+)>", r"\1", each) for each in (arguments, result)]
    return short[0], short[1]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", link_pages)
    app.connect("autodoc-process-signature", name_interfaces)
    app.connect("html-page-context", tell_language)
