"""Many equal deadlines, one timer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from greetsvc.net.deadlines import Deadlines


def _made(seconds: float = 10.0) -> tuple[Clock, list[str], Deadlines[str]]:
    clock, ended = Clock(), list[str]()
    return clock, ended, Deadlines(clock, seconds, ended.append)


def test_each_key_expires_at_its_own_time_in_the_order_of_adding() -> None:
    clock, ended, deadlines = _made()
    deadlines.add("first")
    clock.advance(3)
    deadlines.add("second")
    assert list(deadlines) == ["first", "second"]
    clock.advance(6.9)
    assert not ended
    clock.advance(0.1)
    assert ended == ["first"]
    clock.advance(3)
    assert ended == ["first", "second"]
    assert not clock.getDelayedCalls()


def test_a_key_with_time_spent_expires_earlier_but_after_the_keys_before_it() -> None:
    clock, ended, deadlines = _made()
    deadlines.add("alone", 4)
    clock.advance(6)
    assert ended == ["alone"]
    deadlines.add("first")
    deadlines.add("second", 0.5)
    deadlines.add("third", 11)
    clock.advance(9.9)
    assert ended == ["alone"]
    clock.advance(0.1)
    assert ended == ["alone", "first", "second", "third"]
    assert not clock.getDelayedCalls()


def test_a_discarded_key_does_not_expire_and_an_unknown_key_may_be_discarded() -> None:
    clock, ended, deadlines = _made()
    deadlines.add("one")
    deadlines.add("other")
    deadlines.discard("one")
    deadlines.discard("nobody")
    assert list(deadlines) == ["other"]
    clock.advance(10)
    assert ended == ["other"]


def test_adding_a_key_again_restarts_its_deadline() -> None:
    clock, ended, deadlines = _made()
    deadlines.add("one")
    clock.advance(9)
    deadlines.add("one")
    clock.advance(9)
    assert not ended
    clock.advance(1)
    assert ended == ["one"]


def test_thousands_of_deadlines_have_one_timer_which_ends_when_no_key_is_left() -> None:
    clock, _, deadlines = _made()
    for number in range(5000):
        deadlines.add(str(number))
        deadlines.discard(str(number))
        assert len(clock.getDelayedCalls()) == 1
    clock.advance(10)
    assert not clock.getDelayedCalls()


def test_stopping_drops_every_key_and_the_timer() -> None:
    clock, ended, deadlines = _made()
    deadlines.add("one")
    deadlines.stop()
    deadlines.stop()
    assert not clock.getDelayedCalls()
    clock.advance(100)
    assert not ended
    deadlines.add("two")
    clock.advance(10)
    assert ended == ["two"]


def test_a_callback_may_add_keys_and_stop_everything() -> None:
    clock = Clock()
    ended: list[str] = []

    def expired(key: str) -> None:
        ended.append(key)
        if key == "starts":
            deadlines.add("started")
        if key == "stops":
            deadlines.stop()

    deadlines: Deadlines[str] = Deadlines(clock, 1, expired)
    deadlines.add("starts")
    clock.advance(0.5)
    deadlines.add("stops")
    clock.advance(0.5)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0.5)
    assert ended == ["starts", "stops"]
    assert not list(deadlines)
    assert not clock.getDelayedCalls()


def test_a_callback_that_raises_does_not_keep_other_keys_alive(logged_errors: object) -> None:
    clock = Clock()
    ended: list[str] = []

    def expired(key: str) -> None:
        if key == "bad":
            raise RuntimeError(key)
        ended.append(key)

    deadlines: Deadlines[str] = Deadlines(clock, 1, expired)
    for key in ("bad", "good"):
        deadlines.add(key)
    clock.advance(1)
    assert ended == ["good"]
    assert len(logged_errors.flush(RuntimeError)) == 1  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 7)), max_size=40))
def test_no_key_expires_early_and_none_is_lost(steps: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    ends: dict[str, float] = {}

    def expired(key: str) -> None:
        assert ends.pop(key) <= clock.seconds()

    deadlines: Deadlines[str] = Deadlines(clock, 5, expired)
    for key, adds, wait in steps:
        if adds:
            deadlines.add(key)
            ends[key] = clock.seconds() + 5
        else:
            deadlines.discard(key)
            ends.pop(key, None)
        clock.pump([0.5] * wait)
        assert set(deadlines) == set(ends)
        assert all(end > clock.seconds() for end in ends.values())
    clock.pump([1] * 6)
    assert not ends
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("seconds", [0, 0.0001, 86400.0])
def test_any_length_expires(seconds: float) -> None:
    clock, ended, deadlines = _made(seconds)
    deadlines.add("one")
    clock.advance(seconds)
    assert ended == ["one"]
