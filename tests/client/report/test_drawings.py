"""Jitter, sparkline, trail and bars; and what merging histograms comes to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.report.drawings import Trail, bars, sparkline
from greetsvc.client.stats import Histogram, Jitter


def test_jitter_is_the_mean_difference_from_one_to_the_next() -> None:
    jitter = Jitter()
    assert jitter.value is None
    jitter.add(0.010)
    assert jitter.value is None
    for seconds in (0.014, 0.012, 0.012):
        jitter.add(seconds)
    assert jitter.value == pytest.approx(0.002)


@given(st.lists(st.one_of(st.none(), st.floats(1e-6, 10)), max_size=500))
def test_a_trail_is_bounded_keeps_the_worst_and_forgets_no_loss(times: list[float | None]) -> None:
    trail = Trail(cells=8)
    for seconds in times:
        trail.add(seconds)
    assert len(trail.values) <= 9
    assert (None in trail.values) == (None in times)
    known = [seconds for seconds in times if seconds is not None]
    if known and None not in times:
        assert max(value for value in trail.values if value is not None) == max(known)


def test_a_full_trail_halves_its_cells() -> None:
    trail = Trail(cells=4)
    for seconds in (1.0, 2.0, 3.0, 4.0, 9.0):
        trail.add(seconds)
    assert (trail.values, trail.width) == ([2.0, 4.0, 9.0], 2)


def test_a_sparkline_has_a_character_for_each_and_marks_what_was_lost() -> None:
    assert sparkline([1.0, 2.0, None, 8.0]) == "▁▂x█"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([None]) == "x"
    assert sparkline([]) == ""


def histogram(*seconds: float) -> Histogram:
    made = Histogram()
    for value in seconds:
        made.add(value)
    return made


def test_bars_fit_the_width_and_count_everything() -> None:
    chance = random.Random(1)
    rows = bars(histogram(*(chance.expovariate(100) + 1e-4 for _ in range(5000))), 80)
    assert len(rows) == 10
    assert max(map(len, rows)) <= 80
    assert sum(int(row.split()[-1]) for row in rows) == 5000
    assert max(row.count("█") for row in rows) > 40


def test_few_times_give_few_bars_and_no_times_give_none() -> None:
    assert bars(Histogram(), 80) == []
    assert bars(histogram(0.5, 0.5), 40) == ["    500 to    500 ms  ███████████████ 2"]
    assert len(bars(histogram(1.0, 1.03, 1.03), 80)) == 2
    assert len(bars(histogram(1.0, 9.0), 80)) == 2
    assert bars(histogram(2.0), 10)[0].startswith("   2000 to   2000 ms  ████████ 1")


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=200), st.integers(0, 200))
def test_merged_histograms_equal_one_histogram_of_all_times(times: list[float], cut: int) -> None:
    left, right, whole = histogram(*times[:cut]), histogram(*times[cut:]), histogram(*times)
    left.merge(right)
    assert left.buckets() == whole.buckets()
    assert [left.percentile(percent) for percent in (1, 50, 99, 100)] == [
        whole.percentile(percent) for percent in (1, 50, 99, 100)
    ]
