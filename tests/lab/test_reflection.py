"""How much many datagrams with forged sources make us send, and what they cost us."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from tests.support.forger import BUDGET, BURST, PREFIXES, Forger, attack, one_prefix, start, thousand_prefixes


@pytest.mark.parametrize("sources", [one_prefix, thousand_prefixes])
def test_a_hundred_thousand_datagrams_get_no_more_than_the_budget(child: Any, sources: Any) -> None:
    took, drawn, honest = attack(start(child), sources(100_000))
    assert drawn <= (1 if sources is one_prefix else PREFIXES) * (BURST + BUDGET * took)
    assert honest.answered == honest.asked > 0


def test_a_walk_over_a_million_addresses_grows_no_memory(child: Any) -> None:
    server = start(child)
    (port,) = server.ports()
    forger = Forger(port)
    chance = random.Random(1)
    with forger.sock:

        def wander(number: int) -> None:
            forger.flood(f"127.{chance.randrange(256)}.{chance.randrange(256)}.9" for _ in range(number))

        wander(5_000)
        before = server.rss()
        wander(1_000_000)
        grown = server.rss() - before
    sys.stdout.write(f"{before} bytes resident, then {grown} more\n")
    assert grown < 256 * 1024
