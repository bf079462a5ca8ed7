"""ICMP messages: their words, their senders, and what they probably mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.evidence.icmp import CAUSES, MESSAGES, Icmp, Sender, icmp_of
from greetsvc.net.linux.error_queue import QueuedError

DOCUMENT = Path(__file__).parents[3] / "docs" / "verdicts.md"
SENDERS = get_args(Sender)


def test_every_message_has_words_and_a_cause_for_each_sender() -> None:
    for (version, kind, code), (words, cause) in MESSAGES.items():
        for sender in SENDERS:
            message = Icmp(version, kind, code, "192.0.2.1", sender)  # type: ignore[arg-type]
            assert message.words.startswith(f"{words} (ICMP")
            assert message.cause == CAUSES[cause][sender]


def test_the_error_codes_of_the_standards_are_all_there() -> None:
    codes = {(version, kind): set() for version, kind, _ in MESSAGES}  # type: dict[tuple[int, int], set[int]]
    for version, kind, code in MESSAGES:
        codes[version, kind].add(code)
    assert codes == {
        (4, 3): set(range(16)),  # RFC 792, 1122, 1812
        (4, 4): {0},
        (4, 5): set(range(4)),
        (4, 11): {0, 1},
        (4, 12): {0, 1, 2},
        (6, 1): set(range(9)),  # RFC 4443, 6550, 8883
        (6, 2): {0},
        (6, 3): {0, 1},
        (6, 4): set(range(11)),  # RFC 4443, 7112, 8754, 8883
    }


def test_every_message_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    rows = set(re.findall(r"^\| ICMP(v6)? \| (\d+) \| (\d+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    assert rows == {
        ("v6" if version == 6 else "", str(kind), str(code), words, cause)
        for (version, kind, code), (words, cause) in MESSAGES.items()
    }


def test_every_cause_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for kind, causes in CAUSES.items():
        for sender, cause in causes.items():
            assert f"| {kind} | {sender} | {cause} |" in text


@pytest.mark.parametrize(
    ("offender", "target", "own", "sender", "address"),
    [
        ("192.0.2.9", "192.0.2.9", "192.0.2.1", "target", "192.0.2.9"),
        ("192.0.2.254", "192.0.2.9", "192.0.2.1", "router", "192.0.2.254"),
        ("192.0.2.1", "192.0.2.9", "192.0.2.1", "this host", "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", "target", "127.0.0.1"),
        ("192.0.2.254", "192.0.2.9", None, "router", "192.0.2.254"),
        (None, "192.0.2.9", "192.0.2.1", "this host", None),
        ("fe80::1", "fe80::1%3", "fe80::2", "target", "fe80::1"),
        ("::ffff:192.0.2.9", "::ffff:192.0.2.9", "::ffff:192.0.2.1", "target", "192.0.2.9"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.9", "::ffff:192.0.2.1", "this host", "192.0.2.1"),
        ("127.0.0.1", "0.0.0.0", "127.0.0.1", "target", "127.0.0.1"),
        ("::1", "::", "::1", "target", "::1"),
        ("127.0.0.1", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "target", "127.0.0.1"),
        ("192.0.2.254", "0.0.0.0", "127.0.0.1", "router", "192.0.2.254"),
    ],
)
def test_the_sender_is_the_target_a_router_or_this_host(
    offender: str | None, target: str, own: str | None, sender: Sender, address: str | None
) -> None:
    found = icmp_of(QueuedError(113, offender, 4, 3, 1), target, own)
    assert found == Icmp(4, 3, 1, address, sender)


def test_words_and_json() -> None:
    found = Icmp(6, 1, 1, "2001:db8::1", "router")
    assert found.words == (
        "communication with destination administratively prohibited "
        "(ICMPv6 type 1 code 1), reported by 2001:db8::1, a router on the path"
    )
    assert found.as_json() == {"type": 1, "code": 1, "from": "2001:db8::1"}
    assert Icmp(4, 3, 1, None, "this host").words == "host unreachable (ICMP type 3 code 1), reported by this host"


def test_what_is_not_from_icmp_is_none() -> None:
    assert icmp_of(QueuedError(90, None), "192.0.2.9", None) is None


@given(st.sampled_from([4, 6]), st.integers(0, 255), st.integers(0, 255), st.sampled_from(SENDERS))
def test_any_type_and_code_has_words_and_a_cause(version: int, kind: int, code: int, sender: Sender) -> None:
    message = Icmp(version, kind, code, "192.0.2.1", sender)  # type: ignore[arg-type]
    assert f"type {kind} code {code}" in message.words
    assert message.cause
