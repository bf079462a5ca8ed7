"""A third party's distribution of greeters, as `pip` would have installed it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_MODULE = '''
class Shouter:
    """Shouts its argument.

    And more that --list does not show.
    """

    needs = frozenset({"peer"})

    def __init__(self, argument, encoding):
        if not argument:
            raise ValueError("nothing to shout")
        self.words = argument.upper().encode(encoding)

    def greet(self, visit):
        return self.words + b" " + visit.peer.host.encode()


class Needing(Shouter):
    """Needs what its argument names."""

    def __init__(self, argument, encoding):
        self.needs = eval(argument)


class Unsure(Shouter):
    """Does what its argument names when it is asked for its needs."""

    @property
    def needs(self):
        return eval(self.words.lower())
'''
_ENTRY_POINTS = """[greetsvc.greeters]
shout = acme_greeters:Shouter
gone = acme_not_there:Greeter
nameless = acme_greeters:Nobody
broken = acme_broken:Greeter
leaving = acme_leaving:Greeter
unsure = acme_greeters:Unsure
needing = acme_greeters:Needing
daytime = acme_greeters:Shouter
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Greeters: ``shout`` works, ``needing`` and ``unsure`` need what their argument says.

    ``gone``, ``nameless``, ``broken`` and ``leaving`` do not load, and ``daytime`` has the name of one of ours.
    """
    info = tmp_path / "acme_greeters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-greeters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    (tmp_path / "acme_greeters.py").write_text(_MODULE)
    (tmp_path / "acme_broken.py").write_text("this is no Python\n")
    (tmp_path / "acme_leaving.py").write_text("raise SystemExit(5)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("acme_greeters", "acme_broken", "acme_leaving"):
        sys.modules.pop(name, None)
