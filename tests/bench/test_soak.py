"""What a soak calls wrong. Pure."""

from __future__ import annotations

import pytest

from bench.soak import Outcome, Sample

MIB = 2**20


def outcome(memory: float = 0, descriptors: float = 0, lost: int = 0, sent: int = 9, status: int = 0) -> Outcome:
    """A run of 100 s, in which memory (MiB) and descriptors grow by so much in all, from 50 MiB and 40."""
    samples = [
        Sample(at, int((50 + memory * at / 100) * MIB), int(40 + descriptors * at / 100), 1) for at in range(101)
    ]
    return Outcome(samples, {"TCP": sent}, {"TCP": lost}, 20, status, "all is well")


def test_a_run_in_which_nothing_grows_has_no_faults() -> None:
    assert outcome().faults() == []
    assert outcome(memory=2, descriptors=5).faults() == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (outcome(memory=6), "memory grew from 53.0 to 55.4 MiB"),
        (outcome(descriptors=60), "descriptors grew from 70 to 94"),
        (outcome(lost=2), "TCP: 2 of 9 lost"),
        (outcome(sent=0), "TCP: nothing was sent"),
        (outcome(status=1), "the service ended with status 1"),
    ],
)
def test_each_fault_is_named(run: Outcome, words: str) -> None:
    assert run.faults() == [words]


def test_the_curves_are_drawn() -> None:
    drawn = outcome(memory=5).plot()
    assert drawn.count("<polyline") == 2
    assert "MiB, at most 55" in drawn
