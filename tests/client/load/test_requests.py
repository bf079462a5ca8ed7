"""The requests of a load run: nonces, measured answers, and what comes for another request."""

from __future__ import annotations

import pytest

from greetsvc import wire
from greetsvc.client.evidence.direction import Session
from greetsvc.client.load.requests import Requests
from greetsvc.server.sessions import Sessions

HELLO = b"hello\r\n"


def measured(server: Sessions, request: bytes) -> bytes:
    answer = server.answer(request, 0, len(request), None, 64, 0)
    assert answer is not None
    return answer


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("size", [0, 24, 25, 100, 1200])
def test_each_request_has_a_nonce_of_its_own(size: int, measure: bool) -> None:
    requests = Requests(size, Session() if measure else None)
    made = [requests.make() for _ in range(10)]
    assert len({nonce for nonce, _ in made}) == 10
    for nonce, request in made:
        assert len(request) == size
        assert wire.nonce_of(request) == (nonce.decode() if size >= wire.MARKED_MINIMUM else None)
        assert wire.has_fields(request) == (measure and size >= 100)


def test_an_answer_that_names_another_request_is_not_the_answer() -> None:
    requests = Requests(1200)
    (one, _), (other, _) = requests.make(), requests.make()
    record = b'{"greetsvc":1,"nonce":"%b"}'
    assert requests.answers(one, HELLO, [])
    assert requests.answers(one, record % one, [])
    assert not requests.answers(one, record % other, [])
    assert not requests.answers(one, b"greeted 1 %b s=..." % other, [])


def test_measured_answers_are_counted_for_their_requests_only() -> None:
    requests, server = Requests(1200, Session()), Sessions()
    made = [requests.make() for _ in range(4)]
    answers = [measured(server, request) for _, request in made]
    assert not requests.answers(made[0][0], answers[1], []), "the answer to another request"
    assert requests.answers(made[0][0], answers[0], [])
    assert not requests.answers(made[0][0], answers[0], []), "a copy"
    requests.over(made[3][0])
    assert not requests.answers(made[3][0], answers[3], []), "a late one"
    assert requests.session is not None
    found = requests.session.direction()
    assert found is not None
    assert (found.there.sent, found.back.lost, found.back.duplicated, found.back.late) == (4, 1, 1, 1)


def test_a_request_that_icmp_reported_was_lost_on_the_way_there() -> None:
    requests, server = Requests(1200, Session()), Sessions()
    made = [requests.make() for _ in range(3)]
    assert requests.answers(made[0][0], measured(server, made[0][1]), [])
    requests.refused(made[1][0])
    assert requests.session is not None
    found = requests.session.direction()
    assert found is not None
    assert (found.there.lost, found.refused, found.unknown) == (1, 1, 1)
    Requests(1200).refused(made[1][0])  # nothing is measured, so nothing is counted


def test_where_nothing_is_measured_the_first_greeting_ends_the_asking() -> None:
    requests = Requests(1200, Session())
    nonce, request = requests.make()
    assert wire.has_fields(request)
    assert requests.answers(nonce, HELLO, [])
    assert (requests.session, requests.unmeasured) == (None, "the far end gives no measured answers")
    assert not wire.has_fields(requests.make()[1])


def test_a_greeting_among_measured_answers_makes_nothing_certain() -> None:
    requests, server = Requests(1200, Session()), Sessions()
    first, second = requests.make(), requests.make()
    assert requests.answers(first[0], measured(server, first[1]), [])
    assert requests.answers(second[0], HELLO, [])
    assert requests.session is not None
    assert (requests.session.direction(), requests.session.trouble) == (None, "an answer was not measured")


def test_a_request_that_was_not_sent_is_not_counted() -> None:
    requests = Requests(1200, Session())
    requests.unsent(requests.make()[0])
    assert requests.session is not None
    assert requests.session.requests == 0
    plain = Requests(1200)
    plain.unsent(plain.make()[0])
    plain.over(b"0" * 16)


def test_of_many_requests_a_thousand_a_second_are_measured() -> None:
    now = [0.0]
    requests, counts = Requests(1200, Session(), now=lambda: now[0]), []
    for _ in range(6):
        counts.append(0)
        for _ in range(20_000):
            now[0] += 1 / 20_000
            counts[-1] += wire.has_fields(requests.make()[1])
    assert counts[0] < 7000, "the pace is not known yet"
    assert all(count == pytest.approx(1000, abs=60) for count in counts[2:])
