"""What is said at the start of a listener that cannot answer what it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from greetsvc.daemon.config import settings
from greetsvc.daemon.service import GreetingService

UDP = "udp:0:interface=127.0.0.1"


def _caveats(listen: str = UDP, **options: Any) -> list[str]:
    service = GreetingService(settings(options, [listen]), reactor)
    service.bind()
    try:
        return service.describe()[1:]
    finally:
        service.unbind()


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        ("GREET/1 x", "answers nobody: the greeting begins with 'GREET/1 ', which no answer may"),
        ("x" * 1200, "answers nobody: the greeting has 1200 bytes, and an answer 1199"),
        ("x" * 513, "answers marked requests only: the greeting has 513 bytes, and an answer to others 512"),
    ],
)
def test_a_udp_listener_that_cannot_answer_says_so(greeting: str, why: str) -> None:
    (line,) = _caveats(greeting=greeting)
    assert line.startswith("udp port: ")
    assert line.endswith(why)


def test_one_that_can_says_nothing(tmp_path: Any) -> None:
    assert _caveats(greeting="x" * 512) == []
    assert _caveats(greeting="x" * 5000, listen="tcp:0:interface=127.0.0.1") == []
    assert _caveats(greeting="x" * 5000, listen=f"unixgram:{tmp_path / 'greet.sock'}") == []
    assert _caveats(greeting="{peer_host}" + "x" * 5000) == [], "what depends on the visit is not known before"


def test_a_long_file_is_found_too(tmp_path: Any) -> None:
    (tmp_path / "motd").write_bytes(b"x" * 2000)
    (line,) = _caveats(greeter=f"file:{tmp_path / 'motd'}")
    assert "the greeting has 2000 bytes" in line


def test_a_greeter_that_fails_at_the_start_is_no_caveat(logged_errors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from greetsvc.greeters.text import TextGreeter

    found = settings({"greeting": "hello"}, [UDP])
    monkeypatch.setattr(TextGreeter, "greet", lambda *_: 1 / 0)
    service = GreetingService(found, reactor)
    service.bind()
    assert len(service.describe()) == 1
    service.unbind()
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_the_log_says_it_when_the_listener_starts(log_lines: list[str]) -> None:
    service = GreetingService(settings({"greeting": "x" * 1200}, [UDP]), reactor)
    service.bind()
    service.startService()
    assert any("answers nobody" in line for line in log_lines)
    await service.stopService()
