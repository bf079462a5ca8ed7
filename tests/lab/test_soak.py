"""A minute of the soak whose half hour docs/operations.md shows."""

from __future__ import annotations

from pathlib import Path

from bench.soak import soak


def test_a_minute_of_everything_at_once_loses_nothing_and_takes_no_more_memory(tmp_path: Path) -> None:
    outcome = soak(60, tmp_path)
    assert not outcome.faults(), outcome.words()
    assert outcome.reloads > 5
