"""A PROXY header that does not come. Needs no more than `make test` does, but takes 3 seconds."""

from __future__ import annotations

import time
from typing import Any

import pytest_twisted

from tests.support.waiting import until


@pytest_twisted.ensureDeferred
async def test_peers_that_send_no_header_are_closed_after_3_seconds(serve: Any, visitor: Any) -> None:
    ours = serve("proxy:tcp:0:interface=127.0.0.1")
    (port,) = ours.ports
    begun = time.monotonic()
    visitor.connect(port)
    slow = visitor.connect(port)
    slow.sendall(b"PROXY TCP4")
    await until(lambda: ours.ledger.refused["proxy-timeout"] == 2)
    assert 2.5 < time.monotonic() - begun < 4.5
    assert not ours.ledger.visits
