"""The limit of open files."""

from __future__ import annotations

import resource

import pytest

from greetsvc.net.descriptors import raise_limit


@pytest.mark.parametrize(("limits", "expected"), [((1024, 4096), 4096), ((1024, 1024), 1024)])
def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(
    limits: tuple[int, int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: asked.append(wanted))
    assert raise_limit() == expected
    assert asked == [(expected, expected)]


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1 << 62))
    monkeypatch.setattr(resource, "setrlimit", refuses)
    assert raise_limit() == 256
