"""When visits begin, and what is counted of them: no sockets, no clock."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest

from greetsvc.client.load.metrics import Account
from greetsvc.client.load.pacing import Loading, Paced
from greetsvc.client.stats import Tally
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
def test_what_cannot_be_is_refused_by_name(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{why}$"):
        Loading(**settings)


def test_without_a_number_16_ask_at_once_and_with_a_rate_as_many_as_files_allow_up_to_1024() -> None:
    assert Loading(1).slots(5000) == 16
    assert Loading(1, rate=1).slots(5000) == 1024
    assert Loading(1, rate=1).slots(math.inf) == 1024
    assert Loading(1, rate=1).slots(100) == 100
    assert Loading(1).slots(-3) == 1
    assert Loading(1, 50).slots(50) == 50
    with pytest.raises(ConfigError, match="concurrency 51: this process may open 50 more files"):
        Loading(1, 51).slots(50)


def test_intended_times_are_counted_from_the_start_and_do_not_drift() -> None:
    paced = Paced(start=100.0, rate=3.0, duration=1000.0)
    assert paced.total == 3000
    taken = []
    while paced.next < math.inf:
        taken.append(paced.take(paced.next, waited=False))
    assert len(taken) == 3000
    assert taken[2999] == 100 + 2999 / 3.0
    assert (paced.late, paced.stuck, paced.worst) == (0, 0, 0.0)


def test_a_run_shorter_than_one_interval_has_one_visit() -> None:
    assert Paced(0.0, rate=0.1, duration=1.0).total == 1
    assert Paced(0.0, rate=10, duration=0.3).total == 3


def test_what_begins_more_than_10_ms_late_is_counted_and_whether_it_had_to_wait_for_its_turn() -> None:
    paced = Paced(0.0, rate=10, duration=1)
    assert paced.take(0.009, waited=False) == 0.0
    assert paced.take(0.5, waited=True) == 0.1
    assert paced.take(0.5, waited=False) == 0.2
    assert (paced.late, paced.stuck) == (2, 1)
    assert paced.worst == pytest.approx(0.4)


def test_the_account_adds_up_by_what_by_why_and_by_when() -> None:
    account = Account()
    for _ in range(5):
        account.begin()
    account.greet([0.1], [0.1], flawed=0)
    account.greet([0.3], [0.3], flawed=1)
    account.lose("connect", errno.ECONNREFUSED, "", 3.7)
    account.lose("connect", errno.ECONNREFUSED, "ignored: not the first words", 3.9)
    account.remark("close", errno.ECONNRESET, "after the greeting")
    account.leave()
    assert (account.sent, account.greeted, account.lost, account.unfinished) == (4, 2, 2, 1)
    assert dict(account.lost_in) == {3: 2}
    assert [(f.phase, f.name, f.words, f.count) for f in account.failings] == [
        ("connect", "ECONNREFUSED", "Connection refused", 2),
        ("close", "ECONNRESET", "after the greeting", 1),
    ]
    account.elapsed, account.greeted_meanwhile = 2.0, 1
    assert account.rate == 0.5
    assert account.missed == 0
    tally = Tally()
    account.tally(tally)
    assert (tally.sent, tally.greeted, tally.flawed, tally.status) == (4, 2, 1, 1)
    assert tally.seconds is account.corrected


def test_an_open_loop_keeps_both_times_and_counts_what_never_began() -> None:
    account = Account.open(Paced(0.0, rate=10, duration=2))
    assert account.uncorrected is not None
    assert account.paced is not None
    account.begin()
    account.paced.take(1.0, waited=True)
    account.greet([1.5], [0.5], flawed=0)
    assert (account.corrected.greatest, account.uncorrected.greatest) == (1.5, 0.5)
    account.elapsed = 1.0
    assert account.missed == 9
    account.elapsed = 9.0
    assert account.missed == 19
    tally = Tally()
    account.tally(tally)
    assert tally.status == 1


def test_an_account_of_nothing_has_no_rate() -> None:
    assert Account().rate == 0
    assert Account().warnings(1) == []


def warned(account: Account) -> str:
    return "\n".join(account.warnings(64))


def test_it_warns_when_source_ports_or_files_or_this_client_are_the_limit() -> None:
    account = Account(elapsed=10.0, cpu=9.5)
    account.lose("connect", errno.EADDRNOTAVAIL, "", 0)
    account.lose("connect", errno.EMFILE, "", 0)
    assert account.warnings(64) == [
        "this host had no source port left for 1 visits (net.ipv4.ip_local_port_range): those losses are its own",
        "this process could open no more files for 1 visits: those losses are its own",
        "this client used 95 % of a core: it is likely the limit, and the times include its own",
    ]


def test_it_warns_when_the_schedule_falls_behind_and_says_who_is_slow() -> None:
    paced = Paced(0.0, rate=10, duration=1)
    account = Account.open(paced)
    paced.take(0.005, waited=False)
    assert account.warnings(64) == []
    paced.take(0.15, waited=False)
    assert warned(account) == (
        "50 % of the visits began more than 10 ms late, at worst 0.050 s: this client is too slow for this rate"
    )
    paced.take(0.6, waited=True)
    paced.take(0.7, waited=True)
    assert "all 64 were in flight; the far end is too slow for this rate" in warned(account)
    account.elapsed = 1.0
    assert "6 visits were due and never began, for all 64 were in flight" in warned(account)
