"""Loss by direction through a relay that does a known harm, side by side with Debian's irtt."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Namespace

RELAY = str(Path(__file__).with_name("relay.py"))
COUNT = 500
RUN = ("-c", str(COUNT), "-i", "0", "-t", "0.02")
SEEDS = (1, 2)
"""With these the first datagram of each direction passes: it is the request for the greeting, and not measured."""
WAYS = ("there", "back")
FAULTS = ("lost", "duplicated", "reordered")
TRIES = 5
SERVER, OURS, IRTT_SERVER, IRTTS = 8088, 9001, 2112, 9002


def interval(share: float, count: int) -> tuple[float, float]:
    """The shares between which 99 % of runs fall (the normal approximation, and at least one datagram wide)."""
    wide = 2.576 * math.sqrt(share * (1 - share) / count) + 1 / count
    return share - wide, share + wide


@pytest.fixture
def here(namespace: Namespace) -> Namespace:
    """A namespace with a server of ours."""
    namespace.twistd("--listen", f"udp:{SERVER}", "--log-visits", "off")
    return namespace


def relayed(here: Namespace, there: str, back: str, *options: str) -> tuple[list[str], dict[str, Any]]:
    """What `greet` prints of a run through the relay, and what the relay did.

    When the system itself dropped packets meanwhile, as a flood beside can make it do, the relay does not know the
    truth: then once more.
    """
    for _ in range(TRIES):
        before = dropped()
        relay = here.start(
            *(sys.executable, RELAY, str(OURS), str(SERVER), f"there={there}", f"back={back}"), until="ready"
        )
        done = here.run("greet", *options, f"udp:127.0.0.1:{OURS}")
        relay.stop()
        if dropped() == before:
            return done.stdout.decode().splitlines(), json.loads(relay.said().splitlines()[-1])
    raise AssertionError(f"the system dropped packets in each of {TRIES} runs, {dropped() - before} in the last")


def dropped() -> int:
    """How many packets did not fit the queues of this machine's processors so far, of all namespaces."""
    rows = Path("/proc/net/softnet_stat").read_text("ascii").splitlines()
    return sum(int(row.split()[1], 16) for row in rows)


def by_irtt(here: Namespace, there: str, back: str) -> tuple[float, float]:
    """The shares that irtt says were lost there and back."""
    server = here.start("irtt", "server", "-i", "0", "-b", f"127.0.0.1:{IRTT_SERVER}", until="starting")
    relay = here.start(
        *(sys.executable, RELAY, str(IRTTS), str(IRTT_SERVER), f"there={there}", f"back={back}"), until="ready"
    )
    options = ("-i", "2ms", "-d", f"{COUNT * 2}ms", "-Q", "--wait=200ms", "-o", "-")
    done = here.run("irtt", "client", *options, f"127.0.0.1:{IRTTS}")
    relay.stop()
    server.stop()
    stats = json.loads(done.stdout)["stats"]
    return stats["upstream_loss_percent"] / 100, stats["downstream_loss_percent"] / 100


@pytest.mark.parametrize(
    ("there", "back"),
    [(0, 0), (0.01, 0), (0.1, 0), (0.3, 0), (0, 0.01), (0, 0.1), (0, 0.3), (0.01, 0.01), (0.1, 0.1), (0.3, 0.3)],
)
def test_both_directions_of_loss_are_told_as_irtt_tells_them(here: Namespace, there: float, back: float) -> None:
    patterns = f"lose:{there},seed:{SEEDS[0]}", f"lose:{back},seed:{SEEDS[1]}"
    lines, truth = relayed(here, *patterns, *RUN, "--json")
    told = json.loads(lines[-1])["summary"]["direction"]
    first = truth["there"]["all"] - told["there"]["sent"]
    assert 1 <= first < 4, "the requests until the first greeting are not measured"
    ours = []
    for way, share in zip(WAYS, (there, back), strict=True):
        found = told[way]
        known = found["sent"] - (told["unknown"] if way == "there" else 0)
        low, high = interval(share, known)
        assert low <= found["lost"] / known <= high
        # What was lost behind the last answer is in neither direction.
        assert 0 <= truth[way]["lose"] - found["lost"] <= told["unknown"] + first
        assert (found["duplicated"], found["reordered"]) == (0, 0)
        ours.append(found["lost"] / known)

    def is_as_ours(theirs: tuple[float, float]) -> bool:
        intervals = [interval(share, COUNT // 2) for share in (there, back)]  # it sends fewer where its timer is late
        return all(
            low <= their <= high and abs(their - our) <= high - low
            for (low, high), our, their in zip(intervals, ours, theirs, strict=True)
        )

    # On a busy machine irtt loses packets of its own.
    tries: list[tuple[float, float]] = []
    while not (tries and is_as_ours(tries[-1])):
        assert len(tries) < 3, tries
        tries.append(by_irtt(here, *patterns))


def test_the_text_tells_both_directions(here: Namespace) -> None:
    lines, truth = relayed(here, f"lose:0.1,seed:{SEEDS[0]}", f"lose:0.1,seed:{SEEDS[1]}", *RUN)
    for way in WAYS:
        found = re.search(rf"^{way}: (\d+) sent, (\d+) lost", "\n".join(lines), re.MULTILINE)
        assert found is not None, lines
        low, high = interval(0.1, int(found[1]))
        assert low <= int(found[2]) / int(found[1]) <= high
        assert abs(truth[way]["lose"] - int(found[2])) < 5


def test_behind_workers_the_figures_stay_right(namespace: Namespace) -> None:
    namespace.twistd("--listen", f"udp:{SERVER}", "--log-visits", "off", "--workers", "3")
    lines, truth = relayed(namespace, f"lose:0.1,seed:{SEEDS[0]}", f"lose:0.1,seed:{SEEDS[1]}", *RUN, "--json")
    told = json.loads(lines[-1])["summary"]["direction"]
    first = truth["there"]["all"] - told["there"]["sent"]
    for way in WAYS:
        assert 0 <= truth[way]["lose"] - told[way]["lost"] <= told["unknown"] + first


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "name"), [("double", "duplicated"), ("hold", "reordered")])
def test_one_fault_in_twenty_is_counted_exactly_in_its_direction(
    here: Namespace, way: str, fault: str, name: str
) -> None:
    pattern = f"{fault}:0.05,seed:{SEEDS[0]}"
    lines, truth = relayed(here, *((pattern, "") if way == "there" else ("", pattern)), *RUN, "--json")
    told = json.loads(lines[-1])["summary"]["direction"]
    wrong = {which: {key: told[which][key] for key in FAULTS if told[which][key]} for which in WAYS}
    assert wrong == {"there": {}, "back": {}, way: {name: truth[way][fault]}}
    assert truth[way][fault] > 10


def test_each_flow_has_figures_of_its_own(here: Namespace) -> None:
    options = ("--flows", "4", "-c", "50", "-i", "0.005", "-t", "0.2", "--json")
    lines, truth = relayed(here, f"delay:5,lose:0.1,seed:{SEEDS[0]}", "delay:1", *options)
    summary = json.loads(lines[-1])["summary"]
    flows = [flow["direction"] for flow in summary["flows"]]
    for way in WAYS:
        for key in ("sent", *FAULTS):
            assert summary["direction"][way][key] == sum(flow[way][key] for flow in flows)
    unmeasured = truth["there"]["all"] - summary["direction"]["there"]["sent"]
    assert 0 <= truth["there"]["lose"] - summary["direction"]["there"]["lost"] <= unmeasured
    assert summary["direction"]["back"]["lost"] == 0
    assert summary["seconds"]["min"] > 0.005
