"""Reports on load runs."""

from __future__ import annotations

import errno
import json

from greetsvc.client.load.metrics import LoadMetrics, SecondCounts
from greetsvc.client.load.pacing import Schedule
from greetsvc.client.load.run import Run
from greetsvc.client.report.load import JsonLoadReport, TextLoadReport, stretches


def closed() -> Run:
    run = Run(duration=10, concurrency=64)
    metrics = run.metrics
    for _ in range(4):
        metrics.add_started()
    metrics.add_greeted([0.001], [0.001], flawed=0)
    metrics.add_greeted([12.0], [12.0], flawed=0)
    metrics.elapsed, metrics.greeted_meanwhile = 2.0, 2
    return run


def opened() -> Run:
    run = Run(duration=10, rate=100)
    run.metrics = metrics = LoadMetrics(Schedule(0.0, 100, 10))
    assert metrics.schedule is not None
    for _ in range(6):
        metrics.add_started()
        metrics.schedule.start_next(0.3, waited=False)
    metrics.add_greeted([0.5], [0.25], flawed=1)
    metrics.add_lost("connect", errno.ECONNREFUSED, "", 3.2)
    metrics.add_lost("connect", errno.ECONNREFUSED, "", 4.1)
    metrics.add_lost("tls", errno.EPROTO, "a\x1bb", 7.9)
    metrics.stop()
    metrics.elapsed, metrics.greeted_meanwhile, metrics.cpu = 0.06, 1, 0.01
    return run


def test_a_closed_loop_reads_well_in_80_columns() -> None:
    report, run = TextLoadReport(), closed()
    lines = [
        *report.begin(run).out,
        *report.second(1, SecondCounts(7312, 7248, 0), 64).out,
        *report.end(run).out,
    ]
    assert lines == [
        "tcp:127.0.0.1:8088: 64 at a time for 10 s",
        "    second      sent   greeted      lost in flight",
        "         1      7312      7248         0        64",
        "",
        "4 sent, 2 greeted, 0 lost (0 %), 1 a second",
        "stopped after 2.000 s with 0 in flight",
        "milliseconds             min    mean     p50     p90     p99    p999     max",
        "time                   1.000    6000   1.007   12000   12000   12000   12000",
    ]
    assert max(map(len, lines)) <= 80


def test_an_open_loop_reports_both_times_failures_and_warnings() -> None:
    report, run = TextLoadReport(), opened()
    assert report.begin(run).out[0] == "tcp:127.0.0.1:8088: 100 a second, at most 1024 at a time, for 10 s"
    told = report.end(run)
    assert told.out == [
        "",
        "4 sent, 1 greeted, 3 lost (75 %), 16.6667 a second",
        "stopped after 0.060 s with 2 in flight",
        "1 slow or not as expected",
        "milliseconds             min    mean     p50     p90     p99    p999     max",
        "from intended start  500.000 500.000 500.000 500.000 500.000 500.000 500.000",
        "from actual start    250.000 250.000 250.000 250.000 250.000 250.000 250.000",
        "connect: Connection refused (ECONNREFUSED): 2",
        "tls: a\\x1bb (EPROTO): 1",
        "lost by the second in which they started: 2 in 4 to 5, 1 in 8",
    ]
    assert told.err == [
        "greet: tcp:127.0.0.1:8088: 100 % of the probes started more than 10 ms late, at worst 0.300 s: "
        "this client is too slow for this rate"
    ]


def test_a_run_without_a_greeting_has_no_times() -> None:
    run = Run(duration=1)
    run.metrics.elapsed = 1.0
    assert TextLoadReport().end(run).out == ["", "0 sent, 0 greeted, 0 lost (0 %), 0 a second"]


def test_stretches_of_losses_are_numbered_from_1_and_many_are_cut_short() -> None:
    assert stretches({0: 1, 1: 2, 5: 3}) == [(1, 2, 3), (6, 6, 3)]
    run = closed()
    for second in range(0, 40, 2):
        run.metrics.add_lost("greet", errno.ETIMEDOUT, "", second)
    assert TextLoadReport().end(run).out[-1].endswith("1 in 13, 1 in 15, 12 later")


def test_json_has_the_summary_keys_of_the_contract_first_and_documented_ones_after() -> None:
    report = JsonLoadReport()
    assert report.begin(closed()).out == []
    second = json.loads(report.second(3, SecondCounts(5, 4, 1), 7).out[0])
    assert second == {"second": {"number": 3, "sent": 5, "greeted": 4, "lost": 1, "in_flight": 7}}
    summary = json.loads(report.end(opened()).out[0])["summary"]
    assert list(summary)[:5] == ["sent", "greeted", "lost", "rate", "seconds"]
    assert list(summary["seconds"]) == ["min", "mean", "p50", "p90", "p99", "p999", "max"]
    assert summary["seconds"]["p50"] == 0.5
    assert summary["uncorrected"]["p50"] == 0.25
    assert summary["failed"][0] == {
        "phase": "connect",
        "errno": errno.ECONNREFUSED,
        "error": "Connection refused",
        "count": 2,
    }
    assert summary["lost_in"] == {"4": 1, "5": 1, "8": 1}
    assert (summary["duration"], summary["concurrency"], summary["asked_rate"]) == (10, 1024, 100)
    assert (summary["unfinished"], summary["missed"], summary["flawed"]) == (2, 0, 1)
    assert summary["late"] == {"visits": 6, "worst": 0.3}
    assert (summary["elapsed"], summary["cpu"], len(summary["warnings"])) == (0.06, 0.167, 1)
    bare = json.loads(report.end(Run(duration=1)).out[0])["summary"]
    assert (bare["uncorrected"], bare["late"], bare["asked_rate"], bare["cpu"]) == (None, None, None, 0)
    assert set(bare["seconds"].values()) == {None}
