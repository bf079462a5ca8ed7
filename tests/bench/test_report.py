"""The arithmetic and the report of `make bench`, without a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from attrs import evolve

from bench import plot, report
from bench.gates import Gate, gates
from bench.measure import rotated
from bench.peers import EMPTY, FLOOR, GREETSVC, HEALTH_CHECK, REACTOR, STOCK, Peer, Tools, tcp_peers, udp_peers
from bench.plan import AT_RATE, ONE_ADDRESS, STEADY, Plan, name_of
from bench.results import Command, LoadRun, Results, Start
from bench.sample import Sample, Spread, merged, percentile, ratios

SAMPLE = Sample(
    peer=GREETSVC,
    scenario=name_of(STEADY),
    round=0,
    seconds=2.0,
    greeted=1024,
    failed={"reset": 0, "lost": 2, "wrong": 0, "late": 0},
    server_cpu=0.25,
    user_share=0.4,
    load_worked=1.0,
    others=0.0,
    latency=[(1_000_000, 924), (5_000_000, 100)],
)


def results() -> Results:
    found = Results(
        {"load generator": "C"},
        {part: {GREETSVC: "ours", STOCK: "theirs", FLOOR: "the least"} for part in ("tcp", "udp", "held", "starts")},
    )
    for number in range(5):
        for transport in ("tcp", "udp"):
            for scenario in (name_of(1), name_of(STEADY), name_of(10_000), AT_RATE, ONE_ADDRESS):
                for peer, cpu in ((GREETSVC, 0.25), (STOCK, 0.5), (FLOOR, 0.125)):
                    # A machine that is slower in one round is so for everybody.
                    found.add(
                        transport,
                        evolve(SAMPLE, peer=peer, scenario=scenario, round=number, server_cpu=cpu * (number + 1)),
                    )
    return found


def test_a_percentile_is_the_latency_that_so_many_visits_did_not_exceed() -> None:
    buckets = [(1_000, 90), (2_000, 9), (3_000, 1)]
    assert percentile(buckets, 0.5) == pytest.approx(1e-6)
    assert percentile(buckets, 0.9) == pytest.approx(1e-6)
    assert percentile(buckets, 0.91) == pytest.approx(2e-6)
    assert percentile(buckets, 1) == pytest.approx(3e-6)


def test_without_a_visit_no_percentile_is_invented() -> None:
    assert math.isnan(percentile([], 0.5))
    assert report.duration(percentile([], 0.5)) == "n/a"


def test_the_latencies_of_several_rounds_add_up() -> None:
    assert merged([[(1, 2), (3, 1)], [(2, 5), (3, 4)]]) == [(1, 2), (2, 5), (3, 5)]


def test_a_spread_is_the_median_and_both_ends_and_ignores_nan() -> None:
    assert Spread.of([3.0, 1.0, math.nan, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([math.nan]) is None


def test_ratios_are_taken_round_by_round_so_that_a_slow_round_does_not_show() -> None:
    found = results()
    assert found.ratio("tcp", GREETSVC, STOCK, name_of(STEADY)) == Spread(0.5, 0.5, 0.5)
    assert found.cpu("tcp", GREETSVC, name_of(STEADY)) == Spread(SAMPLE.cpu * 3, SAMPLE.cpu, SAMPLE.cpu * 5)


def test_a_round_that_only_one_of_the_two_has_is_left_out() -> None:
    ours = [evolve(SAMPLE, round=number) for number in (0, 1)]
    assert ratios(ours, ours[:1]) == Spread(1.0, 1.0, 1.0)
    assert ratios(ours, []) is None


def test_a_server_that_greeted_nobody_has_no_cost_per_greeting() -> None:
    assert math.isnan(evolve(SAMPLE, greeted=0).cpu)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(Spread(0.6, 0.5, 0.9), "pass"), (Spread(0.61, 0.5, 0.9), "FAIL"), (None, "not measured")],
)
def test_a_promise_is_judged_by_its_median(measured: Spread | None, verdict: str) -> None:
    assert Gate("", 0.6, measured).verdict == verdict


def test_every_promise_is_in_the_table_measured_or_not() -> None:
    found = results()
    found.commands = [Command(HEALTH_CHECK, 0, 0.1), Command(REACTOR, 0, 0.2)]
    found.starts = [Start(GREETSVC, 0, 0.24), Start(EMPTY, 0, 0.2)]
    verdicts = {gate.words: gate.verdict for gate in gates(found)}
    assert verdicts["TCP server CPU per greeting / stock Twisted without linger"] == "pass"
    assert verdicts["TCP, the same / uvloop without linger"] == "not measured"
    assert verdicts["TCP, the same / C floor"] == "FAIL"
    assert verdicts["UDP, 1 peer: CPU per greeting / stock Twisted"] == "pass"
    assert verdicts["UDP, fixed rate: p50 / stock Twisted"] == "pass"
    assert verdicts["Ready to greet / bare `twistd -n` with an empty service"] == "pass"
    table = report.gate_table(found)
    assert all(words in table for words in verdicts)


def test_load_runs_are_compared_with_the_generator_of_the_same_round() -> None:
    found = results()
    runs = enumerate((0.0008, 0.00095, 0.0011))
    found.load_runs = [LoadRun(GREETSVC, number, 256.0, p50, 0.004, 0) for number, p50 in runs]
    measured = {gate.words: gate.measured for gate in gates(found)}
    for words, low, middle, high in (
        ("Greetings a second of the generator in C / of `greet` under load", 2.0, 2.0, 2.0),
        ("p50 of `greet` under load, apart from the generator's in C", 0.0, 0.05, 0.2),
        ("p99, the same", 0.2, 0.2, 0.2),
    ):
        seen = measured[words]
        assert seen is not None
        assert [seen.low, seen.median, seen.high] == pytest.approx([low, middle, high])
    assert "| p50 | 0.95 (0.80 to 1.10) |" in report.markdown(found)


def test_the_report_names_what_was_not_measured_and_what_failed() -> None:
    found = results()
    found.missing["nginx stream return, TCP"] = "no nginx"
    text = report.markdown(found)
    assert "Not measured: nginx stream return, TCP: no nginx" in text
    assert "10 lost" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    for block in report.markdown(results()).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


@pytest.mark.parametrize("draw", [plot.cpu, plot.latency, plot.growth])
def test_the_plots_are_xml_that_names_every_server(draw: Callable[[Results], str]) -> None:
    words = "".join(ET.fromstring(draw(results())).itertext())
    assert all(peer in words for peer in (GREETSVC, STOCK, FLOOR))


@pytest.mark.parametrize("draw", [plot.cpu, plot.latency, plot.growth])
def test_a_plot_without_results_is_still_a_picture(draw: Callable[[Results], str]) -> None:
    ET.fromstring(draw(Results({}, {"tcp": {}, "udp": {}})))


def test_json_has_percentiles_in_place_of_the_buckets() -> None:
    first = results().as_json()["samples"]["tcp"][0]
    assert "latency" not in first
    assert first["p99"] == pytest.approx(5e-3)


def test_every_round_begins_with_another_server() -> None:
    peers = [Peer(name=str(number), transport="tcp", command=()) for number in range(3)]
    firsts = [rotated(peers, number)[0].name for number in range(4)]
    assert firsts == ["0", "1", "2", "0"]


def test_tools_that_this_machine_lacks_are_listed_with_a_reason() -> None:
    nothing = Tools(floor=None, nginx=None, uvloop=False)
    listed = [*tcp_peers(nothing, Path()), *udp_peers(nothing)]
    assert {peer.missing for peer in listed if peer.missing} == {
        "no C compiler (cc)",
        "no nginx",
        "uvloop is not installed (dependency group bench)",
    }


def test_a_longer_window_is_longer_everywhere_but_where_peers_come_in_waves() -> None:
    short, long = Plan.of(5, 1, (), ()), Plan.of(5, 2, (), ())
    stretched = [(a.seconds, b.seconds) for a, b in zip(short.tcp, long.tcp, strict=True) if a.peers < 4096]
    assert all(b == pytest.approx(2 * a) for a, b in stretched)
