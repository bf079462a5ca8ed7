"""What is said of silent connections: in text, for programs, and for monitoring."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from greetsvc.client.hold import Held, HoldResult
from greetsvc.client.report.hold import (
    CAUSES,
    HealthHoldReport,
    JsonHoldReport,
    NagiosHoldReport,
    TextHoldReport,
)
from greetsvc.client.result import GreetFailed
from greetsvc.client.target import parse
from greetsvc.visit import Address

TARGET = parse("192.0.2.1:8088")
GOOD = Held(20.0, reply=0.0005, packets=0)
RESULT = HoldResult(Address("192.0.2.1", 8088), 20.0, held=GOOD, tried=(GOOD,))
SILENT = Held(20.0, "timeout", sent_again=3, acknowledged=False, packets=0)
FAILED = GreetFailed(errno.ECONNREFUSED, "Connection refused", "connect", target=TARGET)


def bad(held: Held, **more: Any) -> HoldResult:
    return evolve(RESULT, held=held, tried=(held,), **more)


def text(result: HoldResult, *refused: GreetFailed) -> tuple[list[str], list[str]]:
    lines = TextHoldReport(TARGET, 5.0, several=False).end(result, list(refused))
    return lines.out, [line.removeprefix("greet: tcp:192.0.2.1:8088: ") for line in lines.err]


def test_a_silence_that_was_survived() -> None:
    assert text(RESULT) == (["survived 20 s of silence: answered after 0.500 ms"], [])


@pytest.mark.parametrize(
    ("held", "words", "cause"),
    [
        (Held(12.3, "fin", spoken=False), "12.3 s of silence: closed by the far end (FIN)", "fin"),
        (Held(12.3, "reset", spoken=False), "12.3 s of silence: reset", "reset"),
        (Held(20, "fin"), "20 s of silence: closed by the far end (FIN) when we spoke", "fin when we spoke"),
        (Held(20, "reset"), "20 s of silence: reset when we spoke", "reset when we spoke"),
        (Held(20, "timeout"), "20 s of silence: no answer within 5 s", "no answer"),
        (
            Held(20, "timeout", sent_again=0, acknowledged=True),
            "20 s of silence: no answer within 5 s, though our message was acknowledged",
            "no answer, acknowledged",
        ),
        (
            SILENT,
            "20 s of silence: no answer within 5 s: our message was sent 4 times and never acknowledged",
            "no answer, not acknowledged",
        ),
        (
            Held(12.3, "fin", spoken=False, said="bye\x1b"),
            "12.3 s of silence: closed by the far end (FIN); it said: bye\\x1b",
            "fin",
        ),
    ],
)
def test_how_a_silence_ended_and_the_likely_cause(held: Held, words: str, cause: str) -> None:
    assert text(bad(held)) == ([f"did not survive {words}"], [f"likely: {CAUSES[cause]}"])


def test_when_a_connection_ended_that_was_not_silent_the_reason_is_not_known() -> None:
    out, err = text(bad(SILENT, active=GreetFailed(errno.ETIMEDOUT, "no answer to message 7 within 5 s", "talk")))
    assert out[0].startswith("ended after 20 s: no answer within 5 s")
    assert out[0].endswith("; whether the silence is the reason is not known")
    assert err == [
        "a connection that was not silent ended as well (talk: no answer to message 7 within 5 s)",
        f"likely: {CAUSES['active too']}",
    ]


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (evolve(GOOD, packets=2), "2 packets, such as TCP keepalives, came"),
        (evolve(GOOD, pinged=True), "WebSocket pings came"),
    ],
)
def test_a_connection_that_was_not_idle_is_told(held: Held, what: str) -> None:
    assert text(evolve(RESULT, held=held))[1] == [
        f"{what} during the silence: on the path, the connection was not idle all the time"
    ]


def test_a_limit_between_two_silences_and_one_that_was_seen() -> None:
    found = bad(SILENT, between=(19.6, 20.1), asked=7200.0)
    found = evolve(found, tried=(GOOD, SILENT))
    assert text(found)[0][0].startswith(
        "the limit is 19.9 s of silence (more than 19.6 s, at most 20.1 s); after that: no answer within 5 s"
    )
    seen = evolve(found, held=Held(20.0, "fin", spoken=False), between=(20.0, 20.0))
    assert text(seen)[0] == ["the limit is 20 s of silence; after that: closed by the far end (FIN)"]
    assert text(evolve(found, stopped=True))[0][0].startswith("stopped: the limit is 19.9 s")


def test_what_is_known_after_ctrl_c() -> None:
    assert text(evolve(RESULT, stopped=True))[0] == [
        "stopped: survived 20 s of silence: answered after 0.500 ms; what is longer is not known"
    ]
    assert text(evolve(RESULT, held=None, tried=(), stopped=True))[0] == [
        "stopped: no connection has ended so far; nothing else is known"
    ]


def test_connections_that_were_refused_are_told() -> None:
    assert text(RESULT, FAILED, FAILED)[1] == [
        "2 more connections failed before their silence (connect: Connection refused)"
    ]


def test_a_row_for_each_silence_of_a_search() -> None:
    report = TextHoldReport(TARGET, 5.0, several=True)
    assert report.each(GOOD).out == ["      20 s  answered after 0.500 ms"]
    assert report.each(evolve(GOOD, silence=1.5)).out == ["     1.5 s  answered after 0.500 ms"]
    assert TextHoldReport(TARGET, 5.0, several=False).each(GOOD).out == []


def test_the_object_for_programs() -> None:
    report = JsonHoldReport(TARGET, 5.0)
    assert report.each(GOOD).out == []
    found = json.loads(report.end(evolve(bad(SILENT, between=(19.6, 20.1)), tried=(GOOD, SILENT)), [FAILED]).out[0])
    hold = found.pop("hold")
    error = found.pop("error")
    assert error.startswith("the limit is 19.9 s of silence")
    assert found == {
        "target": "tcp:192.0.2.1:8088",
        "transport": "tcp",
        "address": "192.0.2.1:8088",
        "ok": True,
    }
    assert hold == {
        "seconds": 20.0,
        "survived": False,
        "closed": "timeout",
        "limit": 19.85,
        "between": [19.6, 20.1],
        "spoken": True,
        "acknowledged": False,
        "sent_again": 3,
        "packets": 0,
        "said": None,
        "active": True,
        "refused": 1,
        "tried": [
            {"seconds": 20.0, "survived": True, "closed": None},
            {"seconds": 20.0, "survived": False, "closed": "timeout"},
        ],
    }
    assert json.loads(report.end(RESULT, []).out[0])["error"] is None
    failed = json.loads(report.failed(FAILED).out[0])
    assert (failed["ok"], failed["phase"], failed["errno"]) == (False, "connect", errno.ECONNREFUSED)
    assert failed["hold"] == {"seconds": None, "survived": None, "closed": None, "limit": None}


def test_the_line_for_monitoring() -> None:
    report = NagiosHoldReport(TARGET, 5.0)
    assert report.end(RESULT, []).out == [
        "GREET OK - tcp:192.0.2.1:8088: survived 20 s of silence: answered after 0.500 ms"
        " | silence=20.000s;;;0.000;20.000 limit=U;;;0.000"
    ]
    (line,) = report.end(bad(Held(12.3, "fin", spoken=False), between=(12.3, 12.3)), []).out
    assert line.startswith("GREET WARNING - tcp:192.0.2.1:8088: did not survive 12.3 s of silence: closed by")
    assert line.endswith(" | silence=12.300s;;;0.000;20.000 limit=12.300s;;;0.000")
    assert report.failed(FAILED).out == [
        "GREET CRITICAL - tcp:192.0.2.1:8088: connect: Connection refused | silence=U;;;0.000 limit=U;;;0.000"
    ]


def test_a_health_check_says_only_what_is_wrong() -> None:
    report = HealthHoldReport(TARGET, 5.0)
    assert (report.end(RESULT, []).out, report.end(RESULT, []).err) == ([], [])
    assert report.end(bad(SILENT), []).err[0].startswith("greet: tcp:192.0.2.1:8088: did not survive 20 s of silence")
    assert report.failed(FAILED).err == ["greet: tcp:192.0.2.1:8088: connect: Connection refused"]


def test_text_says_a_failure_as_for_any_probe() -> None:
    assert TextHoldReport(TARGET, 5.0, several=False).failed(FAILED).err[0] == (
        "greet: tcp:192.0.2.1:8088: connect: Connection refused"
    )


def test_every_cause_is_in_the_document() -> None:
    page = (Path(__file__).parents[3] / "docs" / "verdicts.md").read_text()
    assert [cause for cause in CAUSES.values() if cause not in page] == []
