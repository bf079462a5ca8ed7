"""The conformance kit finds each planted fault, by the test that is about it, and none in a good plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from greetsvc.testing import Conformance
from tests.protocols.conftest import Install

FAULTS = {
    "ForgetsParts": "a_message_may_come_in_two_pieces_at_every_byte",
    "FirstOnly": "many_messages_in_one_segment_are_answered_in_their_order",
    "Reversed": "many_messages_in_one_segment_are_answered_in_their_order",
    "Shared": "connections_know_nothing_of_each_other",
    "AnswersAfterClose": "a_message_that_is_too_long_ends_the_connection",
    "CountsMessages": "a_visit_is_counted_once",
    "Unlimited": "a_message_that_is_too_long_ends_the_connection",
    "BuffersAll": "a_peer_that_does_not_read_is_not_buffered_without_end",
    "Guesses": "text_that_does_not_decode_ends_the_connection",
    "Raises": "strange_bytes_raise_nothing",
    "TrustsText": "strange_bytes_raise_nothing",
    "NeverTired": "a_silent_peer_is_closed_at_the_deadline_and_a_talking_one_is_not",
    "EveryByteCounts": "a_silent_peer_is_closed_at_the_deadline_and_a_talking_one_is_not",
    "Abrupt": "a_half_closing_peer_gets_all_answers",
    "LeavesTimers": "a_reset_leaves_nothing_behind",
    "KeepsItsPlace": "a_reset_leaves_nothing_behind",
}
BAD_PLUGINS = (Path(__file__).parent / "bad_plugins.py").read_text("utf-8")


@pytest.mark.parametrize(("fault", "test"), FAULTS.items())
def test_a_planted_fault_is_found(fault: str, test: str, install: Install, logged_errors: Any) -> None:
    plugin = f"{fault.lower()}_{test[:8]}"
    install(BAD_PLUGINS, **{plugin: fault})
    found = type("Found", (Conformance,), {"plugin": plugin})()
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        getattr(found, f"test_{test}")()
    logged_errors.flush(Exception)


@pytest.mark.parametrize("test", sorted(set(FAULTS.values())))
def test_none_is_found_in_the_good_one(test: str, install: Install) -> None:
    install(BAD_PLUGINS, good="GOOD")
    good = type("Good", (Conformance,), {"plugin": "good"})()
    getattr(good, f"test_{test}")()
