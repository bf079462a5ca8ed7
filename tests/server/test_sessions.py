"""What is counted of measured requests, and for how long."""

from __future__ import annotations

import resource
import secrets
import sys
from pathlib import Path
from typing import Any

import pytest

from greetsvc import wire
from greetsvc.server.sessions import IDLE, WAYS, Sessions
from greetsvc.wire import Measured, decode_measured

NONCE = "0123456789abcdef"
NOW = 1000 * 10**9 + 77


def _request(session: str, number: int = 0, attempt: int = 0, size: int = 1200) -> bytes:
    return wire.request(NONCE, size, {"s": session, "n": number, "a": attempt, "w": "count"})


def _session() -> str:
    return secrets.token_hex(8)


class Table(Sessions):
    """With a clock of the test, in seconds."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000
        super().__init__(lambda: self.now * 10**9 + 77, **options)

    def measured(self, request: bytes, rx: int | None = 5) -> Measured | None:
        answer = self.answer(request, 0, len(request), rx, 64, 2)
        return None if answer is None else decode_measured(answer)


def test_requests_of_each_session_are_counted() -> None:
    table, one, other = Table(), _session(), _session()
    for number in range(3):
        expected = Measured(NONCE, one, number, 1, number + 1, number + 1, 5, NOW, 64, 2, 1200)
        assert table.measured(_request(one, number, 1)) == expected
    assert table.measured(_request(other)) == Measured(NONCE, other, 0, 0, 1, 1, 5, NOW, 64, 2, 1200)


def test_without_a_time_of_the_kernel_a_request_arrives_when_it_is_read() -> None:
    found = Table().measured(_request(_session()), rx=None)
    assert found is not None
    assert (found.rx, found.tx) == (NOW, NOW)


def test_what_gets_no_measured_answer_is_not_counted() -> None:
    table, session = Table(), _session()
    shortest = len(table.answer(_request(session), 0, 200, 5, 64, 2) or b"") + 1
    assert table.measured(_request(session, size=shortest - 1)) is None
    assert table.measured(wire.request(NONCE, 1200)) is None
    found = table.measured(_request(session, size=shortest))
    assert found is not None
    assert (found.seen, found.seq, found.size) == (2, 2, shortest)


def test_a_session_goes_on_after_a_long_silence_where_nobody_needs_its_entry() -> None:
    table, session = Table(), _session()
    table.measured(_request(session))
    table.now += 100 * IDLE
    table.measured(_request(_session()))
    found = table.measured(_request(session))
    assert found is not None
    assert found.seen == 2


def test_forged_sessions_displace_only_one_that_was_silent_for_long() -> None:
    table, session = Table(entries=WAYS), _session()
    table.measured(_request(session))
    others = [_session() for _ in range(WAYS - 1)]
    for _ in range(3):
        table.now += IDLE - 1
        assert all(table.measured(_request(other)) for other in others)
        assert table.measured(_request(_session())) is None, "there is no room for a new one"
        assert table.measured(_request(session)) is not None
    table.now += 1
    assert all(table.measured(_request(other)) for other in others)
    table.now += IDLE - 1
    assert table.measured(_request(_session())) is not None
    assert table.measured(_request(session)) is None


def test_a_hundred_thousand_forged_sessions_change_nobody_elses_figures() -> None:
    table, session = Table(), _session()
    table.measured(_request(session))
    head, tail = _request(_session()).split(b" s=", 1)
    numbers = secrets.token_hex(8 * 25_000)
    refused = 0
    for at in range(0, len(numbers), 4):  # overlapping ones: as good, and cheaper to make
        other = (numbers + numbers[:16])[at : at + 16].encode()
        refused += table.answer(b"%b s=%b%b" % (head, other, tail[16:]), 0, 1200, 5, 64, 0) is None
    found = table.measured(_request(session))
    assert found is not None
    assert (found.seen, found.seq) == (2, 2)
    assert refused < 300, "6 in 10,000 are to be expected at the end, fewer before"


def test_counts_wrap() -> None:
    table, session = Table(entries=WAYS), _session()
    table.measured(_request(session))
    table._counts[table._known[session.encode()]] = wire.WRAP - 2
    found = [table.measured(_request(session)) for _ in range(3)]
    assert [one and (one.seen, one.seq) for one in found] == [(wire.WRAP - 1, wire.WRAP - 1), (0, 0), (1, 1)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_table_that_is_not_used_takes_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    table = Sessions(entries=1 << 22)
    assert resident() - before < 1 << 20, "of 80 MiB"
    assert table.answer(_request("0" * 16), 0, 1200, None, None, None)
