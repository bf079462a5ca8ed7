"""What a listener drops is counted and summed up in the log."""

from __future__ import annotations

import errno
from typing import Any

import pytest_twisted

from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import settings


@pytest_twisted.ensureDeferred
async def test_connections_that_a_listener_drops_are_counted_and_logged(log_lines: list[str]) -> None:
    service = GreetingService(settings({}, ("tcp:0:interface=127.0.0.1",)))
    service.bind()
    service.startService()
    listening: Any = service._listening[0]
    (port,) = listening._facade.ports
    port._drop(OSError(errno.EMFILE, "Too many open files"), 2)
    assert service.ledger.refused == {"accept-EMFILE": 2}
    await service.stopService()
    assert "Refused 2 in a second: accept-EMFILE 2" in log_lines
