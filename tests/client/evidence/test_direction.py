"""Loss by direction: a simulated network, whose truth is known, between a client and a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import wire
from greetsvc.client.evidence.direction import Direction, Session, combined, initial_ttl
from greetsvc.net.linux.packets import Arrival
from greetsvc.server.sessions import Sessions
from greetsvc.wire import Measured, decode_measured

MILLISECOND = 1_000_000
EPOCH = 1_800_000_000 * 10**9
Fate = Callable[[int], list[int]]
"""Of the datagram with this number: the delays of its copies, in nanoseconds; none where it is lost."""


def plain(_number: int) -> list[int]:
    return [MILLISECOND]


@define
class Network:
    """Requests that leave at a fixed interval, one by one or many in flight; our server at the other end."""

    there: Fate = plain
    back: Fate = plain
    interval: int = 10 * MILLISECOND
    offset: int = 0
    drift: float = 0.0
    lie: Callable[[Measured], Measured] = lambda answer: answer
    session: Session = field(factory=lambda: Session(ttl=64))
    truth: dict[str, int] = field(factory=lambda: dict.fromkeys(("there", "back", "arrived", "came"), 0))

    def run(self, count: int) -> Session:
        """Send so many requests, and let all arrive."""
        now = [0]
        server = Sessions(lambda: now[0] + self.offset + int((now[0] - EPOCH) * self.drift))
        arriving: list[tuple[int, int, bytes]] = []
        for number in range(count):
            sent, nonce = EPOCH + number * self.interval, f"{number:016x}"
            request = wire.request(nonce, 1200, self.session.sent(nonce, sent, 0))
            fate = self.there(number)
            self.truth["there"] += not fate
            arriving += [(sent + delay, number, request) for delay in fate]
        coming: list[tuple[int, int, bytes]] = []
        for number, (when, _, request) in enumerate(sorted(arriving)):
            now[0] = when
            line = server.answer(request, 0, len(request), None, 61, 46 << 2 | 1)
            assert line is not None
            now[0] += 20_000
            fate = self.back(number)
            self.truth["back"] += not fate
            coming += [(now[0] + delay, number, line) for delay in fate]
        self.truth |= {"arrived": len(arriving), "came": len(coming)}
        for when, _, line in sorted(coming):
            answer = decode_measured(line)
            assert answer is not None
            self.session.received(self.lie(answer), when, Arrival(60, 0, 0))
        return self.session


def figures(session: Session) -> Direction:
    found = session.direction()
    assert found is not None, session.trouble
    return found


def lossy(share: float, seed: int) -> Fate:
    chance = random.Random(seed)
    return lambda _: [] if chance.random() < share else [MILLISECOND]


@pytest.mark.parametrize("there", [0.0, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("back", [0.0, 0.01, 0.1, 0.3])
def test_losses_of_each_direction_are_counted_exactly(there: float, back: float) -> None:
    network = Network(lossy(there, 1), lossy(back, 2))
    found = figures(network.run(500))
    unknown = found.unknown
    assert found.there.sent == 500
    # What was lost behind the last answer that came is in neither direction.
    assert 0 <= network.truth["there"] - found.there.lost <= unknown
    assert 0 <= network.truth["back"] - found.back.lost <= unknown
    assert found.there.sent - unknown - found.there.lost == found.back.sent
    assert (found.there.duplicated, found.there.reordered) == (found.back.duplicated, found.back.reordered) == (0, 0)
    assert unknown < 12


def every(nth: int, what: list[int]) -> Fate:
    return lambda number: what if number % nth == nth // 2 else [MILLISECOND]


TWICE = [MILLISECOND, MILLISECOND + 1]
LATE = [15 * MILLISECOND]


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize(("what", "name"), [(TWICE, "duplicated"), (LATE, "reordered"), ([], "lost")])
def test_one_fault_in_twenty_is_counted_exactly_and_in_its_direction(way: str, what: list[int], name: str) -> None:
    faulty = every(20, what)
    found = figures((Network(there=faulty) if way == "there" else Network(back=faulty)).run(500))
    expected = dict.fromkeys(("lost", "duplicated", "reordered"), 0)
    faults = {which: {key: getattr(getattr(found, which), key) for key in expected} for which in ("there", "back")}
    assert faults == {"there": expected, "back": expected, way: expected | {name: 25}}


def test_losses_are_right_while_copies_are_made() -> None:
    network = Network(lambda number: {0: [], 1: TWICE}.get(number % 10, [MILLISECOND]), lossy(0.1, 3))
    found = figures(network.run(500))
    assert abs(found.there.lost - 50) <= 6, "copies whose answers were lost hide as many losses"
    assert found.back.lost == network.truth["back"]


@pytest.mark.parametrize(("offset", "drift"), [(0, 0.0), (3 * 10**9, 100e-6), (-3 * 10**9, -100e-6)])
@pytest.mark.parametrize("interval", [10 * MILLISECOND, 1000 * MILLISECOND])
def test_a_clock_that_is_wrong_and_drifts_changes_no_variation(offset: int, drift: float, interval: int) -> None:
    chance = random.Random(4)
    network = Network(
        lambda _: [MILLISECOND + chance.randrange(200_000)],
        lambda _: [5 * MILLISECOND + chance.randrange(50_000)],
        interval,
        offset,
        drift,
    )
    found = figures(network.run(500))
    assert found.there.variation == pytest.approx(200e-6 / 3, rel=0.1)  # the mean difference of two uniform values
    assert found.back.variation == pytest.approx(50e-6 / 3, rel=0.1)
    assert found.steps == 499


def test_a_step_of_the_clock_changes_no_variation() -> None:
    steady = figures(Network().run(100))

    def stepped(answer: Measured) -> Measured:
        return evolve(answer, rx=answer.rx + 3 * 10**9, tx=answer.tx + 3 * 10**9) if answer.number >= 50 else answer

    found = figures(Network(lie=stepped).run(100))
    assert (found.there.variation, found.back.variation) == (steady.there.variation, steady.back.variation) == (0, 0)
    assert found.steps == 98


def test_header_fields_of_both_directions_are_known() -> None:
    found = figures(Network().run(3))
    assert (found.there.hops, found.there.dscp, found.there.ecn) == (3, 46, 1)
    assert (found.back.hops, found.back.dscp, found.back.ecn) == (4, 0, 0)
    assert [initial_ttl(ttl) for ttl in (1, 64, 65, 128, 129, 255)] == [64, 64, 128, 128, 255, 255]


def test_the_requests_behind_the_last_answer_are_in_neither_direction() -> None:
    found = figures(Network(lambda number: [MILLISECOND] if number < 80 else []).run(100))
    assert (found.there.sent, found.there.lost, found.unknown, found.back.lost) == (100, 0, 20, 0)


def test_requests_that_icmp_reported_were_lost_on_the_way_there() -> None:
    network = Network(lambda number: [MILLISECOND] if number < 80 and number % 20 else [])
    session = network.run(100)
    for number in (*range(90, 100), 40, 95):  # one of them twice, and one that a later answer has told already
        session.refused(f"{number:016x}")
    for unknown in (None, "f" * 16, f"{50:016x}"):  # the last was answered
        session.refused(unknown)
    found = figures(session)
    assert (found.there.sent, found.there.lost, found.refused, found.unknown) == (100, 14, 10, 10)
    assert (found.back.sent, found.back.lost) == (76, 0)
    both = combined([found, found])
    assert both is not None
    assert (both.there.lost, both.refused, both.unknown) == (28, 20, 20)


def test_a_later_answer_tells_more_than_icmp() -> None:
    session, server = Session(), Sessions()
    requests = [wire.request(f"{n:016x}", 1200, session.sent(f"{n:016x}", n, 0)) for n in range(10)]
    for number, answered in ((0, True), (1, False), (2, False), (9, False), (5, True)):
        if not answered:
            session.refused(f"{number:016x}")
            continue
        answer = decode_measured(server.answer(requests[number], 0, 1200, None, 64, 0) or b"")
        assert answer is not None
        session.received(answer, 100)
    found = figures(session)
    assert (found.there.lost, found.refused, found.unknown) == (5, 1, 3)


def test_counts_that_wrap_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("greetsvc.client.evidence.direction", "greetsvc.server.sessions"):
        monkeypatch.setattr(f"{module}.WRAP", 100)
    found = figures(Network(every(20, []), every(20, TWICE)).run(500))
    assert (found.there.lost, found.back.sent, found.back.lost, found.back.duplicated) == (25, 475, 0, 24)


def test_the_figures_of_a_long_run_are_those_of_the_whole() -> None:
    found = figures(Network(every(20, LATE), every(20, TWICE), session=Session(most=10_000)).run(6000))
    assert (found.there.reordered, found.back.duplicated, found.there.lost, found.back.lost) == (300, 300, 0, 0)
    assert found.steps == 5999


def test_an_answer_after_the_end_of_its_probe_is_late_and_not_lost() -> None:
    session, server = Session(), Sessions()
    fields = session.sent("0" * 16, 0, 0)
    session.over("0" * 16)
    line = server.answer(wire.request("0" * 16, 1200, fields), 0, 1200, None, 64, 0)
    answer = decode_measured(line or b"")
    assert answer is not None
    assert [session.received(answer, 10) for _ in range(2)] == ["late", "copy"]
    found = figures(session)
    assert (found.back.late, found.back.lost, found.back.duplicated, found.there.hops) == (1, 0, 1, None)


def test_a_request_that_was_not_sent_does_not_count() -> None:
    network = Network()
    network.session.sent("f" * 16, 0, 0)
    network.session.unsent("f" * 16)
    assert figures(network.run(3)).there.sent == 3


def test_flows_are_added_up() -> None:
    one, other = figures(Network(every(20, [])).run(500)), figures(Network(back=every(10, TWICE)).run(300))
    both = combined([one, other])
    assert both is not None
    assert (both.there.sent, both.there.lost, both.back.duplicated, both.back.late) == (800, 25, 30, 0)
    assert both.steps == one.steps + other.steps
    assert combined([]) is None
    assert combined([one]) == one


# A server that lies, or more than one.


def test_without_an_answer_nothing_is_known() -> None:
    session = Session()
    session.sent("0" * 16, 0, 0)
    assert session.direction() is None
    assert session.trouble == "no measured answer came"


@pytest.mark.parametrize(
    "lie",
    [
        {"seen": 7},
        {"seq": 7},
        {"seen": 0},
        {"number": 3},
        {"attempt": 9},
        {"session": "f" * 16},
        {"seq": wire.WRAP - 1},
        *({"seen": count, "seq": count} for count in (7, 0, 499_999)),
    ],
)
def test_answers_that_contradict_themselves_or_us_state_nothing(lie: dict[str, Any]) -> None:
    session = Network(lie=lambda answer: evolve(answer, **lie)).run(20)
    assert session.direction() is None
    assert session.trouble


def test_more_than_sent_cannot_arrive() -> None:
    lie = Network(lie=lambda answer: evolve(answer, seen=answer.seen + 5, seq=answer.seq + 5)).run(20)
    assert lie.direction() is None
    assert lie.trouble == "the answers contradict each other: more requests are counted than we sent"


def test_two_servers_that_share_the_requests_state_nothing() -> None:
    session, servers = Session(), [Sessions(), Sessions()]
    for number in range(10):
        nonce = f"{number:016x}"
        request = wire.request(nonce, 1200, session.sent(nonce, number, 0))
        answer = decode_measured(servers[number % 2].answer(request, 0, 1200, None, 64, 0) or b"")
        assert answer is not None
        session.received(answer, number + 1)
    assert session.direction() is None
    assert "more than one server answers" in session.trouble


def test_answers_to_others_requests_count_for_nothing() -> None:
    stranger = Network().run(5)
    network = Network(lie=lambda answer: evolve(answer, nonce="f" * 16) if answer.number == 3 else answer)
    found = figures(network.run(10))
    assert (network.session.foreign, found.back.lost, found.back.sent) == (1, 1, 10)
    assert stranger.foreign == 0


def test_a_clock_that_makes_no_sense_gives_no_variation() -> None:
    chance = random.Random(5)
    found = figures(Network(lie=lambda answer: evolve(answer, rx=chance.randrange(2**62))).run(50))
    assert (found.there.variation, found.back.variation) == (None, None)
    assert found.there.lost == 0


ANSWERS = st.builds(
    Measured,
    nonce=st.sampled_from([f"{number:016x}" for number in range(12)]),
    session=st.sampled_from(["5" * 16, "6" * 16]),
    number=st.integers(0, 12),
    attempt=st.integers(0, 1),
    seen=st.integers(0, 20) | st.integers(0, wire.WRAP - 1),
    seq=st.integers(0, 20) | st.integers(0, wire.WRAP - 1),
    rx=st.integers(0, 10**19 - 1),
    tx=st.integers(0, 10**19 - 1),
    ttl=st.none() | st.integers(0, 255),
    tos=st.none() | st.integers(0, 255),
    size=st.integers(0, 99999),
)


@given(st.lists(ANSWERS, max_size=30), st.booleans())
def test_no_answers_break_the_figures_or_make_them_impossible(answers: list[Measured], honest: bool) -> None:
    session = Session("5" * 16, ttl=64)
    for number in range(10):
        session.sent(f"{number:016x}", number * 1000, 0)
    for when, answer in enumerate(answers):
        told = evolve(answer, session="5" * 16, number=int(answer.nonce, 16), attempt=0) if honest else answer
        session.received(told, when)
    found = session.direction()
    assert (found is None) == bool(session.trouble)
    if found is not None:
        for way in (found.there, found.back):
            assert min(way.sent, way.lost, way.duplicated, way.reordered) >= 0
            assert way.lost <= way.sent
        assert found.as_json()["there"]["sent"] == 10
