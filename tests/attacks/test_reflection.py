"""How much datagrams with forged sources make us send to their victims."""

from __future__ import annotations

from typing import Any

from tests.support.forger import BUDGET, BURST, attack, one_prefix, start

NOISE = 12_000


def test_one_prefix_gets_no_more_than_its_burst_and_its_budget(child: Any) -> None:
    took, drawn, honest = attack(start(child), one_prefix(NOISE))
    assert BURST * 0.9 < drawn <= BURST + BUDGET * took
    assert honest.answered == honest.asked > 0
