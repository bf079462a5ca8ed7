"""Percentiles at most 1 % off, and merging that loses nothing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.stats import Histogram

DURATIONS = st.lists(st.floats(1e-8, 1e5), min_size=1, max_size=200)


def filled(durations: list[float]) -> Histogram:
    histogram = Histogram()
    histogram.add(*durations)
    return histogram


@given(DURATIONS, st.floats(0.1, 100))
def test_a_percentile_is_at_most_one_percent_off(durations: list[float], percent: float) -> None:
    exact = sorted(durations)[max(1, math.ceil(len(durations) * percent / 100)) - 1]
    told = filled(durations).percentile(percent)
    assert told is not None
    assert abs(told - exact) <= 0.01 * exact


@given(DURATIONS, DURATIONS)
def test_merged_histograms_equal_durations_counted_together(some: list[float], others: list[float]) -> None:
    merged = filled(some)
    merged.merge(filled(others))
    together = filled(some + others)
    assert (merged.count, merged.least, merged.greatest) == (together.count, together.least, together.greatest)
    assert math.isclose(merged.total, together.total)
    assert all(merged.percentile(p) == together.percentile(p) for p in (1, 50, 90, 99, 99.9, 100))


@given(st.lists(st.floats(0, 1e5), max_size=50))
def test_durations_counted_together_equal_those_counted_one_by_one(durations: list[float]) -> None:
    together, apart = filled(durations), Histogram()
    for duration in durations:
        apart.add(duration)
    assert (apart.count, apart.least, apart.greatest) == (together.count, together.least, together.greatest)
    assert math.isclose(apart.total, together.total)
    assert apart.buckets() == together.buckets()


def test_least_greatest_and_mean_are_exact() -> None:
    histogram = filled([0.1, 0.2, 0.6])
    assert (histogram.least, histogram.greatest) == (0.1, 0.6)
    assert histogram.mean is not None
    assert math.isclose(histogram.mean, 0.3)


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert Histogram().percentile(50) is None
    assert Histogram().mean is None


def test_a_duration_of_nothing_counts_as_a_nanosecond() -> None:
    assert filled([0.0]).percentile(50) == 1e-9
