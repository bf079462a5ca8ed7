"""Which silences to try, and what is known of the limit."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.hold import Held, HoldResult, Search
from greetsvc.client.result import GreetFailed
from greetsvc.visit import Address

PEER = Address("192.0.2.1", 8088)


def test_one_silence_is_tried_alone() -> None:
    search = Search(20.0, search=False)
    assert search.next_round() == [20.0]
    search.tried.append(Held(20.0))
    assert (search.next_round(), search.between) == ([], None)
    search.tried[:] = [Held(20.0, "timeout")]
    assert (search.next_round(), search.between) == ([], None), "it is not known when it was lost"
    search.tried[:] = [Held(12.0, "fin", spoken=False)]
    assert (search.next_round(), search.between) == ([], (12.0, 12.0))


def test_a_search_begins_with_silences_that_grow_up_to_the_most() -> None:
    assert Search(5.0).next_round() == [1.0, 1.5, 2.25, 3.375, 5.0]
    assert Search(0.5).next_round() == [0.5]
    longest = Search(7200.0).next_round()
    assert len(longest) == 23
    assert longest[-1] == 7200.0


@given(st.floats(0.01, 7300), st.sampled_from(["timeout", "reset"]))
def test_a_limit_is_found_to_a_second_or_a_twentieth(limit: float, how: str) -> None:
    search = Search(7200.0)
    rounds = 0
    while silences := search.next_round():
        rounds += 1
        for silence in silences:
            if not search.needless(silence):
                search.tried.append(Held(silence, None if silence <= limit else how))  # type: ignore[arg-type]
    assert rounds <= 2
    if limit >= 7200:
        assert (search.between, search.ended) == (None, None)
        return
    assert search.between is not None
    least, most = search.between
    assert least <= limit < most
    assert most - least <= max(1.0, most / 20)


def test_what_was_seen_needs_no_other_round() -> None:
    search = Search(100.0)
    search.tried += [Held(1.0), Held(1.5), Held(2.0, "fin", spoken=False)]
    assert search.between == (2.0, 2.0)
    assert search.next_round() == []
    assert search.needless(2.25)
    assert not search.needless(1.9)


def test_a_failure_that_a_longer_silence_refutes_is_no_limit() -> None:
    search = Search(100.0)
    search.tried += [Held(5.0, "reset"), Held(7.6)]
    assert (search.ended, search.between) == (None, None)


def test_what_a_result_says_of_survival() -> None:
    good = HoldResult(PEER, 20.0, held=Held(20.0))
    assert (good.survived, good.limit) == (True, None)
    assert evolve(good, stopped=True).survived is None
    assert evolve(good, held=None).survived is None
    bad = HoldResult(PEER, 20.0, held=Held(20.0, "timeout"), between=(19.0, 20.0))
    assert (bad.survived, bad.limit) == (False, 19.5)
    assert evolve(bad, active=GreetFailed(104, "reset")).survived is None, "then the reason is not known"


@pytest.mark.parametrize(("packets", "pinged", "idle"), [(0, False, True), (None, False, True), (2, False, False)])
def test_packets_and_pings_end_the_idleness(packets: int | None, pinged: bool, idle: bool) -> None:
    assert Held(1.0, packets=packets, pinged=pinged).idle == idle
    assert not Held(1.0, packets=packets, pinged=True).idle
