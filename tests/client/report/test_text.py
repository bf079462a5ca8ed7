"""Reports on probes."""

from __future__ import annotations

import errno
import json
import re
from typing import Any

import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import GreetFailed, Greeting
from greetsvc.client.evidence.direction import Back, Direction, There
from greetsvc.client.evidence.handshake import Handshake
from greetsvc.client.report.base import Report
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.monitoring import HealthReport, NagiosReport
from greetsvc.client.report.text import TextReport, summary_notes
from greetsvc.client.result import Attempt, Exchange, RoundTrip, Seconds, Talked
from greetsvc.client.stats import Expectations, FlowStats, RunStats
from greetsvc.client.target import parse
from greetsvc.client.words import Closed
from greetsvc.visit import Address

TARGET = parse("tcp:127.0.0.1:8088")
UDP = parse("udp:127.0.0.1:8088")
SECONDS = Seconds(connect=0.0004, first_byte=0.0001234567, total=0.002)
KEYS = ["time", "target", "transport", "address", "ok", "greeting", "error", "errno", "phase", "closed", "seconds"]


def greeting(text: str = "hello\r\n", closed: Closed | None = "fin", **more: Any) -> Greeting:
    peer = more.pop("peer", Address("127.0.0.1", 8088))
    return Greeting(TARGET, text.encode(errors="replace"), text, SECONDS, peer, closed, **more)


def refused() -> GreetFailed:
    return GreetFailed(errno.ECONNREFUSED, "Connection refused", "connect", target=TARGET)


def stats(*results: Greeting | GreetFailed) -> RunStats:
    metrics = RunStats()
    for result in results:
        metrics.add(result, [])
    metrics.elapsed = 2.0
    return metrics


def test_one_probe_writes_the_greeting_alone_to_standard_output() -> None:
    lines = TextReport(TARGET, several=False).probe(1, greeting("hello\r\nworld\x1b[0m\r\n"), [])
    assert lines.out == ["hello\nworld\\x1b[0m"]
    assert lines.err == []
    assert TextReport(TARGET, several=False).end(stats()).out == []


def test_a_failure_and_its_likely_causes_go_to_standard_error() -> None:
    plain = TextReport(TARGET, several=True)
    lines = plain.probe(1, refused(), [])
    assert (lines.out, lines.err[0]) == ([], "greet: 1: tcp:127.0.0.1:8088: connect: Connection refused")
    assert [line[:42] for line in lines.err[1:]] == ["greet: 1: tcp:127.0.0.1:8088: likely: the "]
    assert len(plain.probe(2, refused(), []).err) == 1, "the same causes are told once"


@pytest.mark.parametrize(
    ("closed", "words"),
    [("reset", "the connection was reset after the greeting"), ("timeout", "the server did not close in time")],
)
def test_notes_go_to_standard_error(closed: Closed, words: str) -> None:
    lines = TextReport(TARGET, several=True).probe(3, greeting(closed=closed, notes=("odd",)), ["slow"])
    assert lines.err[:3] == [f"greet: 3: tcp:127.0.0.1:8088: {remark}" for remark in ("odd", words, "slow")]
    assert [line[:38] for line in lines.err[3:]] == ["greet: 3: tcp:127.0.0.1:8088: likely: "]


def test_several_probes_are_a_line_each_and_a_summary() -> None:
    plain = TextReport(TARGET, several=True)
    assert plain.probe(7, greeting("a\nb\r\n"), []).out == ["7 tcp 127.0.0.1:8088 2.000 ms: a\\nb"]
    six = greeting(peer=Address("::1", 1))
    assert plain.probe(8, six, []).out == ["8 tcp [::1]:1 2.000 ms: hello"]
    assert plain.probe(8, greeting(peer=Address("/s", 0)), []).out == ["8 tcp /s 2.000 ms: hello"]
    assert plain.end(stats(greeting(), greeting(), refused())).out == [
        "",
        "3 sent, 2 greeted, 1 lost (33.3 %), 1 a second",
        "min 2.000, mean 2.000, max 2.000, jitter 0.000 ms",
        "p50 2.000, p90 2.000, p99 2.000, p999 2.000 ms",
    ]
    assert plain.end(RunStats()).out == ["", "0 sent, 0 greeted, 0 lost (0 %), 0 a second"]


def test_json_has_exactly_the_keys_of_the_contract() -> None:
    report = JsonReport(TARGET, several=True)
    told = json.loads(report.probe(1, greeting(), []).out[0])
    assert list(told) == [*KEYS, "direction"]
    assert told == {
        "time": None,
        "target": "tcp:127.0.0.1:8088",
        "transport": "tcp",
        "address": "127.0.0.1:8088",
        "ok": True,
        "greeting": "hello\r\n",
        "error": None,
        "errno": None,
        "phase": None,
        "closed": "fin",
        "seconds": {"resolve": None, "connect": 0.0004, "tls": None, "first_byte": 0.000123, "total": 0.002},
        "direction": {"syn_lost": None, "synack_lost": None, "ack_lost": None},
    }
    failed = json.loads(report.probe(1, refused(), []).out[0])
    assert list(failed) == [*KEYS, "direction"]
    assert (failed["ok"], failed["greeting"], failed["address"]) == (False, None, None)
    assert (failed["error"], failed["errno"], failed["phase"]) == ("Connection refused", 111, "connect")
    summary = json.loads(report.end(stats(greeting(), refused())).out[0])["summary"]
    assert list(summary) == ["sent", "greeted", "lost", "rate", "seconds"]
    assert list(summary["seconds"]) == ["min", "mean", "p50", "p90", "p99", "p999", "max"]
    assert (summary["sent"], summary["greeted"], summary["lost"], summary["rate"]) == (2, 1, 1, 0.5)
    assert JsonReport(TARGET, several=False).end(stats(greeting())).out == []
    nothing = json.loads(report.end(RunStats()).out[0])["summary"]["seconds"]
    assert set(nothing.values()) == {None}


def test_a_run_sums_up_what_was_lost_of_handshakes() -> None:
    slow = Handshake(0, 0, 0, "slow: nothing is lost")
    lost = Handshake(2, 0, 0, "SYN: lost 2 times"), Handshake(0, 1, None, "SYN-ACK: lost once")
    unknown = Handshake(words="SYN-ACKs are lost")
    seen = stats(*(greeting(handshake=each) for each in (Handshake(0, 0, 0), slow, *lost, unknown)), refused())
    summary = json.loads(JsonReport(TARGET, several=True).end(seen).out[0])["summary"]
    assert summary["direction"] == {"syn_lost": 2, "synack_lost": 1, "ack_lost": 0, "unexplained": 1}
    assert summary_notes(seen) == ["handshakes: 2 SYNs, 1 SYN-ACKs, 0 ACKs lost, 1 not explained"]
    assert summary_notes(stats(greeting(handshake=slow))) == []


def test_json_says_what_is_wrong_with_a_greeting_that_came() -> None:
    report = JsonReport(TARGET, several=False)
    told = json.loads(report.probe(1, greeting(closed="reset"), ["slow"]).out[0])
    assert told["ok"] is True
    assert told["error"] == "the connection was reset after the greeting; slow"
    assert (told["phase"], told["errno"], told["closed"]) == ("close", errno.ECONNRESET, "reset")


def test_every_report_says_that_a_greeting_was_cut_short() -> None:
    words = "cut short after 3 bytes without a line end: the server did not close in time"
    result = greeting("Tha", closed="timeout", cut_short=words)
    flaws = Expectations().flaws(result)
    assert flaws == [words]
    metrics = RunStats()
    metrics.add(result, flaws)
    assert metrics.status == 1
    told = json.loads(JsonReport(TARGET, several=False).probe(1, result, flaws).out[0])
    assert (told["ok"], told["error"], told["phase"], told["errno"]) == (True, words, "close", errno.ETIMEDOUT)
    text = TextReport(TARGET, several=False).probe(1, result, flaws)
    assert text.out == ["Tha"]
    assert text.err[0] == f"greet: tcp:127.0.0.1:8088: {words}"
    assert text.err[1].startswith("greet: tcp:127.0.0.1:8088: likely: the FIN was lost or held back")
    assert HealthReport(TARGET).probe(1, result, flaws).err == text.err[:1]
    line = NagiosReport(TARGET, 5.0, None)
    line.probe(1, result, flaws)
    assert line.end(metrics).out[0].startswith(f"GREET WARNING - 1 of 1 greeted by tcp:127.0.0.1:8088: {words} | ")


def test_requests_that_were_sent_again_are_told_beside_the_probes() -> None:
    target = parse("udp:127.0.0.1:8088")
    again = greeting(closed=None, attempts=(Attempt(0.0), Attempt(0.5, 0.25)))
    silent = GreetFailed(errno.ETIMEDOUT, "no answer", target=target, attempts=(Attempt(0.0), Attempt(0.5)))
    metrics = stats(again, greeting(closed=None, attempts=(Attempt(0.0, 0.75),)), silent)
    assert metrics.repeats == "5 requests sent, 3 lost (60 %)"
    assert (metrics.seconds.least, metrics.seconds.greatest) == (0.25, 0.75), (
        "each from the request that was answered"
    )
    assert metrics.jitter.value == 0.5
    text = TextReport(target, several=True)
    assert text.probe(1, again, []).err == [
        "greet: 1: udp:127.0.0.1:8088: 2 requests were sent, 1 of them lost; the answer took 250.000 ms"
    ]
    assert "5 requests sent, 3 lost (60 %)" in text.end(metrics).out
    line = NagiosReport(target, 5.0, None).end(metrics).out[0]
    assert line.startswith("GREET WARNING - 2 of 3 greeted by udp:127.0.0.1:8088, 5 requests sent, 3 lost (60 %) | ")
    report = JsonReport(target, several=True)
    assert json.loads(report.probe(1, again, []).out[0])["attempts"] == [
        {"time": 0.0, "seconds": None},
        {"time": 0.5, "seconds": 0.25},
    ]
    assert json.loads(report.end(metrics).out[0])["summary"]["requests"] == {"sent": 5, "lost": 3}


@pytest.mark.parametrize(
    ("results", "line"),
    [
        (
            [greeting("a|b\r\n")],
            "GREET OK - 1 of 1 greeted by tcp:127.0.0.1:8088: a\\x7cb"
            " | time=0.002000s;0.100000;;0.000000;5.000000 loss=0%;;;0;100",
        ),
        (
            [greeting(), refused()],
            "GREET WARNING - 1 of 2 greeted by tcp:127.0.0.1:8088: connect: Connection refused"
            " | time=0.002000s;0.100000;;0.000000;5.000000 loss=50%;;;0;100",
        ),
        (
            [refused()],
            "GREET CRITICAL - 0 of 1 greeted by tcp:127.0.0.1:8088: connect: Connection refused"
            " | time=U;0.100000;;0.000000;5.000000 loss=100%;;;0;100",
        ),
        (
            [],
            "GREET CRITICAL - 0 of 0 greeted by tcp:127.0.0.1:8088"
            " | time=U;0.100000;;0.000000;5.000000 loss=100%;;;0;100",
        ),
    ],
)
def test_monitoring_gets_one_line(results: list[Greeting | GreetFailed], line: str) -> None:
    report = NagiosReport(TARGET, 5.0, 0.1)
    for result in results:
        assert report.probe(1, result, []).out == []
    assert report.end(stats(*results)).out == [line]


def test_the_monitoring_line_has_the_flaws_rather_than_the_greeting() -> None:
    report = NagiosReport(TARGET, 5.0, None)
    report.probe(1, greeting(), ["slow", "odd"])
    metrics = RunStats()
    metrics.add(greeting(), ["slow"])
    assert report.end(metrics).out[0].startswith("GREET WARNING - 1 of 1 greeted by tcp:127.0.0.1:8088: slow: odd | ")


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ("failed", ["1 round trip on a connection: min 1.000, mean 1.000, p99 1.000, max 1.000 ms"]),
        ("failed failed", ["2 round trips on a connection: min 1.000, mean 1.000, p99 1.000, max 1.000 ms"]),
        ("refused", []),
    ],
)
def test_times_that_nobody_measured_have_no_line(results: str, told: list[str]) -> None:
    talk = Talked("lines", (RoundTrip("Ada", "error: no", 0.001),))
    kinds = {"failed": GreetFailed(errno.EPROTO, "no", talk=talk), "refused": refused()}
    found = stats(*(kinds[each] for each in results.split()))
    out = TextReport(TARGET, several=True).end(found).out
    assert [line for line in out if line.endswith(" ms")] == told
    assert not any(line.endswith(":  ms") for line in out)


def test_a_health_check_says_only_what_is_wrong() -> None:
    report = HealthReport(TARGET)
    good = report.probe(1, greeting(closed="timeout"), [])
    assert (good.out, good.err) == ([], [])
    assert report.probe(1, greeting(), ["slow"]).err == ["greet: tcp:127.0.0.1:8088: slow"]
    assert report.probe(1, refused(), []).err == ["greet: tcp:127.0.0.1:8088: connect: Connection refused"]
    assert report.end(stats(greeting())).out == []


@pytest.mark.parametrize(
    ("results", "flaws", "status"),
    [
        ([], [], 2),
        ([greeting()], [], 0),
        ([greeting()], ["slow"], 1),
        ([refused()], [], 2),
        ([refused(), greeting()], [], 1),
        ([refused(), refused()], [], 2),
    ],
)
def test_the_exit_status_follows_from_the_results(
    results: list[Greeting | GreetFailed], flaws: list[str], status: int
) -> None:
    metrics = RunStats()
    for result in results:
        metrics.add(result, flaws)
    assert metrics.status == status


def test_a_greeting_that_is_slow_or_not_as_expected_is_flawed() -> None:
    expectations = Expectations(expect=re.compile("^hello$"), warn=0.001)
    assert expectations.flaws(greeting("hello\r\n")) == ["slow: 2.000 ms, more than 1 ms"]
    assert Expectations(expect=re.compile("x")).flaws(greeting()) == ["not as expected: nothing matches x"]
    assert Expectations(expect=re.compile("a\tb")).flaws(greeting()) == ["not as expected: nothing matches a\\tb"]
    assert Expectations().flaws(greeting()) == []


REPORTS: list[Report] = [
    TextReport(TARGET, several=True),
    JsonReport(TARGET, several=True),
    NagiosReport(TARGET, 5.0, None),
    HealthReport(TARGET),
]


@given(st.text(), st.sampled_from(REPORTS))
def test_no_greeting_gets_a_control_character_or_a_second_line_through(text: str, report: Report) -> None:
    lines = report.probe(1, greeting(text, closed="reset", notes=(text,)), [text])
    failed = report.probe(2, GreetFailed(5, text), [])
    end = report.end(stats(greeting(text)))
    for line in (*lines.out, *lines.err, *failed.out, *failed.err, *end.out):
        assert "\n" not in line
        assert all(char.isprintable() or char == "\x7f" for char in line)


def test_nagios_shows_lost_requests_lost_probes_and_the_direction() -> None:
    run = RunStats(sent=20, greeted=20, requests=29, requests_lost=9)
    run.seconds.add(0.002)
    run.direction = Direction(There(29, 5, 0, 0), Back(24, 4, 0, 0, 0))
    report = NagiosReport(UDP, 5.0, None)
    report.probe(1, evolve(greeting(), text="hello"), [])
    report.probe(2, evolve(greeting(), text="greeted 1 …", attempts=(Attempt(0.0, 0.1, EXCHANGE),)), [])
    assert report.end(run).out == [
        "GREET OK - 20 of 20 greeted by udp:127.0.0.1:8088, 29 requests sent, 9 lost (31 %), 5 lost there,"
        " 4 answers lost back: hello | time=0.002000s;;;0.000000;5.000000 loss=0%;;;0;100 request_loss=31%;;;0;100"
        " loss_there=17.2%;;;0;100 loss_back=16.7%;;;0;100"
    ]


EXCHANGE = Exchange(10**9, 5 * 10**9, 5 * 10**9 + 40_000_000, 10**9 + 90_000_000, 1, 1, 64, 0, 1200, 64, 0)


def test_a_measured_attempt_has_its_raw_numbers_in_json() -> None:
    measured = evolve(greeting(), attempts=(Attempt(0.0), Attempt(0.5, 0.0905, EXCHANGE)))
    attempts = json.loads(JsonReport(UDP, several=True).probe(1, measured, []).out[0])["attempts"]
    assert attempts[0] == {"time": 0.0, "seconds": None}
    assert attempts[1] == {"time": 0.5, "seconds": 0.0905, "round_trip": 0.05, "measured": asdict(EXCHANGE)}


@pytest.mark.parametrize(
    ("there", "back", "unknown", "told"),
    [
        (
            There(510, 51, 2, 1, 0.0000125, 3, 46, 0),
            Back(459, 9, 0, 4, 2, 0.002, 2, 0, 1),
            10,
            [
                "there: 500 sent, 51 lost (10.2 %), 2 doubled, 1 reordered, variation 0.013 ms, hops 3, DSCP 46,"
                " ECN 0",
                "back: 459 sent, 9 lost (1.96 %), 0 doubled, 4 reordered, variation 2.000 ms, hops 2, DSCP 0, ECN 1,"
                " 2 late",
                "the last 10 requests were not answered: lost there or back, that is not known",
            ],
        ),
        (
            There(1, 0, 0, 0),
            Back(0, 0, 0, 0, 0),
            1,
            [
                "there: 0 sent, 0 lost (0 %), 0 doubled, 0 reordered",
                "back: 0 sent, 0 lost (0 %), 0 doubled, 0 reordered",
                "the last request was not answered: lost there or back, that is not known",
            ],
        ),
    ],
)
def test_the_summary_tells_both_directions(there: There, back: Back, unknown: int, told: list[str]) -> None:
    run = RunStats(sent=2, greeted=2, direction=Direction(there, back, unknown))
    assert TextReport(UDP, several=True).end(run).out[2:] == told
    run = RunStats(sent=2, greeted=2, unmeasured="nothing answered")
    assert TextReport(UDP, several=True).end(run).out[2:] == ["there, back: not known, nothing answered"]
    assert json.loads(JsonReport(UDP, several=True).end(run).out[0])["summary"]["direction"] is None


@pytest.mark.parametrize(
    ("unknown", "told"),
    [(0, []), (1, ["1 of the last 9 requests was not"]), (2, ["2 of the last 10 requests were not"])],
)
def test_a_request_that_icmp_reported_is_not_said_to_be_lost_in_an_unknown_way(unknown: int, told: list[str]) -> None:
    direction = Direction(There(20 + unknown, 8, 0, 0), Back(12, 0, 0, 0, 0), unknown, refused=8)
    out = TextReport(UDP, several=True).end(RunStats(sent=2, greeted=2, direction=direction)).out[2:]
    assert out[0].startswith("there: 20 sent, 8 lost (40 %)")
    assert out[2:] == [f"{which} answered: lost there or back, that is not known" for which in told]


def test_each_flow_has_its_direction_in_json() -> None:
    flows = FlowStats([4000, 4001])
    flows.directions = [Direction(There(5, 1, 0, 0), Back(4, 0, 0, 0, 0)), None]
    told = json.loads(JsonReport(UDP, several=True).end(RunStats(sent=10, flows=flows)).out[0])["summary"]["flows"]
    assert [flow["direction"] and flow["direction"]["there"]["lost"] for flow in told] == [1, None]
