"""A log that cannot be written ends neither the service nor the log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

GREETING = b"Thank you for connecting\r\n"
TCP = "tcp:0:interface=127.0.0.1"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_service_goes_on_when_its_output_is_on_a_full_disk(child: Any, visitor: Any, form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        server = child("--listen", TCP, "--log-format", form, stdout=full)
    (port,) = wait_until(server.listening)
    assert all(visitor.visit(port) == GREETING for _ in range(50))
    before = server.rss()
    assert all(visitor.visit(port) == GREETING for _ in range(500))
    assert server.rss() - before < 500_000
    assert server.stop() == 0


def test_the_service_goes_on_when_the_reader_of_its_output_is_gone(child: Any, visitor: Any) -> None:
    reading, writing = os.pipe()
    server = child("--listen", TCP, stdout=writing)
    os.close(writing)
    os.close(reading)
    (port,) = wait_until(server.listening)
    assert all(visitor.visit(port) == GREETING for _ in range(100))
    assert server.stop() == 0
