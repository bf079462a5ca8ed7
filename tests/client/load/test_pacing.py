"""When probes start, and what is counted: no sockets, no clock."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest

from greetsvc.client.load.metrics import LoadMetrics
from greetsvc.client.load.pacing import LoadOptions, Schedule
from greetsvc.client.stats import RunStats
from greetsvc.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"duration": 0}, "duration 0: must be more than 0 and at most 86400 seconds"),
        ({"duration": math.nan}, "duration nan: must be more than 0 and at most 86400 seconds"),
        ({"duration": 1, "concurrency": 0}, "concurrency 0: must be from 1 to 100000"),
        ({"duration": 1, "rate": 0}, "rate 0: must be more than 0 and at most 1000000 a second"),
        ({"duration": 1, "rate": math.inf}, "rate inf: must be more than 0 and at most 1000000 a second"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{why}$"):
        LoadOptions(**settings)


def test_the_default_in_flight_is_16_and_with_a_rate_1024_or_as_many_as_files_allow() -> None:
    assert LoadOptions(1).max_in_flight(5000) == 16
    assert LoadOptions(1, rate=1).max_in_flight(5000) == 1024
    assert LoadOptions(1, rate=1).max_in_flight(math.inf) == 1024
    assert LoadOptions(1, rate=1).max_in_flight(100) == 100
    assert LoadOptions(1).max_in_flight(-3) == 1
    assert LoadOptions(1, 50).max_in_flight(50) == 50
    with pytest.raises(ConfigError, match="concurrency 51: this process may open too few files for it: 50 besides"):
        LoadOptions(1, 51).max_in_flight(50)


def test_intended_times_are_counted_from_the_start_and_do_not_drift() -> None:
    schedule = Schedule(start=100.0, rate=3.0, duration=1000.0)
    assert schedule.total == 3000
    taken = []
    while schedule.next < math.inf:
        taken.append(schedule.start_next(schedule.next, waited=False))
    assert len(taken) == 3000
    assert taken[2999] == 100 + 2999 / 3.0
    assert (schedule.late, schedule.waited, schedule.worst) == (0, 0, 0.0)


def test_a_run_shorter_than_one_interval_has_one_probe() -> None:
    assert Schedule(0.0, rate=0.1, duration=1.0).total == 1
    assert Schedule(0.0, rate=10, duration=0.3).total == 3


def test_probes_that_start_more_than_10_ms_late_are_counted_and_those_that_waited_for_a_free_one() -> None:
    schedule = Schedule(0.0, rate=10, duration=1)
    assert schedule.start_next(0.009, waited=False) == 0.0
    assert schedule.start_next(0.5, waited=True) == 0.1
    assert schedule.start_next(0.5, waited=False) == 0.2
    assert (schedule.late, schedule.waited) == (2, 1)
    assert schedule.worst == pytest.approx(0.4)


def test_the_metrics_count_by_result_by_failure_and_by_second() -> None:
    metrics = LoadMetrics()
    for _ in range(5):
        metrics.add_started()
    metrics.add_greeted([0.1], [0.1], flawed=0)
    metrics.add_greeted([0.3], [0.3], flawed=1)
    metrics.add_lost("connect", errno.ECONNREFUSED, "", 3.7)
    metrics.add_lost("connect", errno.ECONNREFUSED, "", 3.9)
    metrics.add_failure("close", errno.ECONNRESET, "after the greeting")
    metrics.stop()
    assert (metrics.sent, metrics.greeted, metrics.lost, metrics.unfinished) == (4, 2, 2, 1)
    assert dict(metrics.lost_in) == {3: 2}
    assert [(f.phase, f.name, f.words, f.count) for f in metrics.failures] == [
        ("connect", "ECONNREFUSED", "Connection refused", 2),
        ("close", "ECONNRESET", "after the greeting", 1),
    ]
    metrics.elapsed, metrics.greeted_meanwhile = 2.0, 1
    assert metrics.rate == 0.5
    assert metrics.missed == 0
    stats = RunStats()
    metrics.fill_in(stats)
    assert (stats.sent, stats.greeted, stats.flawed, stats.status) == (4, 2, 1, 1)
    assert stats.seconds is metrics.corrected


def test_failures_are_counted_by_their_words_and_the_number_of_words_is_bounded() -> None:
    metrics = LoadMetrics()
    for at in range(1000):
        metrics.add_lost("connect", errno.EHOSTUNREACH, f"reported by 192.0.2.{at % 500}", 0.1)
    assert len(metrics.failures) == 65
    assert sum(failure.count for failure in metrics.failures) == 1000
    assert (metrics.failures[0].words, metrics.failures[0].count) == ("No route to host", 872)
    assert metrics.failures[1].words == "reported by 192.0.2.0"


def test_an_open_loop_keeps_both_times_and_counts_probes_that_never_started() -> None:
    metrics = LoadMetrics(Schedule(0.0, rate=10, duration=2))
    assert metrics.uncorrected is not None
    assert metrics.schedule is not None
    metrics.add_started()
    metrics.schedule.start_next(1.0, waited=True)
    metrics.add_greeted([1.5], [0.5], flawed=0)
    assert (metrics.corrected.greatest, metrics.uncorrected.greatest) == (1.5, 0.5)
    metrics.elapsed = 1.0
    assert metrics.missed == 9
    metrics.elapsed = 9.0
    assert metrics.missed == 19
    stats = RunStats()
    metrics.fill_in(stats)
    assert stats.status == 1


def test_metrics_of_nothing_have_no_rate() -> None:
    assert LoadMetrics().rate == 0
    assert LoadMetrics().warnings(1) == []


def warned(metrics: LoadMetrics) -> str:
    return "\n".join(metrics.warnings(64))


def test_it_warns_when_source_ports_or_files_or_this_client_are_the_limit() -> None:
    metrics = LoadMetrics(elapsed=10.0, cpu=9.5)
    metrics.add_lost("connect", errno.EADDRNOTAVAIL, "", 0)
    metrics.add_lost("connect", errno.EMFILE, "", 0)
    assert metrics.warnings(64) == [
        "this host had no free source port for 1 probes (net.ipv4.ip_local_port_range): "
        "these losses are not the server's",
        "this process could not open files for 1 probes: these losses are not the server's",
        "this client used 95 % of a core: it is likely the limit, and the times include its own delays",
    ]


def test_it_warns_when_the_schedule_falls_behind_and_says_which_side_is_slow() -> None:
    schedule = Schedule(0.0, rate=10, duration=1)
    metrics = LoadMetrics(schedule)
    schedule.start_next(0.005, waited=False)
    assert metrics.warnings(64) == []
    schedule.start_next(0.15, waited=False)
    assert warned(metrics) == (
        "50 % of the probes started more than 10 ms late, at worst 0.050 s: this client is too slow for this rate"
    )
    schedule.start_next(0.6, waited=True)
    schedule.start_next(0.7, waited=True)
    assert "all 64 were in flight; the server is too slow for this rate" in warned(metrics)
    metrics.elapsed = 1.0
    assert "6 probes were due and never started: all 64 were in flight" in warned(metrics)
