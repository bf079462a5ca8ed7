"""Visits leave no memory behind."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytestmark = pytest.mark.alone

GREETING = b"Thank you for connecting\r\n"


def test_fifty_thousand_visits_leave_no_memory_behind(child: Any, visitor: Any) -> None:
    server = child("--listen", "tcp:0:interface=127.0.0.1", "--log-visits", "summary")
    (port,) = server.ports()
    chance = random.Random(3)

    def visit(number: int) -> None:
        for _ in range(number):
            source = f"127.{chance.randrange(256)}.{chance.randrange(256)}.9"
            assert visitor.visit(port, source=source) == GREETING
        visitor.opened.clear()

    visit(2_000)
    before = server.rss()
    visit(50_000)
    assert server.rss() - before < 256 * 1024
    assert server.stop() == 0
