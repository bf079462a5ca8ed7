"""The log as JSON Lines."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import FileLogObserver, Logger, LogLevel
from twisted.python.failure import Failure

from greetsvc.daemon.logs import event_as_json, json_observer
from greetsvc.daemon.tap import Options, makeService
from greetsvc.errors import ConfigError


def _line(**event: Any) -> dict[str, Any]:
    line = event_as_json({"log_time": 0.5, "log_level": LogLevel.warn, "log_namespace": "greetsvc", **event})
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_an_event_is_one_object_with_time_level_system_and_message() -> None:
    assert _line(log_format="Hello {who}", who="you") == {
        "time": "1970-01-01T00:00:00.500000+00:00",
        "level": "warn",
        "system": "greetsvc",
        "message": "Hello you",
    }


def test_a_visit_has_peer_and_transport_and_a_summary_its_count() -> None:
    visit = _line(log_format="Got a connection from {peer}", peer=("127.0.0.1", 9599), transport="tcp")
    assert visit["peer"] == ["127.0.0.1", 9599]
    assert visit["transport"] == "tcp"
    assert visit["message"] == "Got a connection from ('127.0.0.1', 9599)"
    assert _line(log_format="{count} more", count=7)["count"] == 7


def test_old_style_events_and_failures_are_one_line_too() -> None:
    old = json.loads(event_as_json({"message": ("two\nlines",), "isError": 0, "log_system": "-", "time": 1.0}))
    assert old["level"] == "info"
    assert old["system"] == "-"
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        failed = _line(log_format="It failed", log_failure=Failure())
    assert "It failed" in failed["message"]
    assert "RuntimeError: first\nsecond" in failed["message"]


@given(st.text(), st.one_of(st.text(), st.binary(), st.tuples(st.text(), st.integers()), st.floats()))
def test_any_event_is_one_line_of_json(text: str, peer: object) -> None:
    _line(log_format="{text}", text=text, peer=peer)


def test_a_peer_field_of_any_type_in_another_event_is_no_error() -> None:
    assert "peer" in _line(log_format="x", peer=(b"bytes", object()))


@pytest.fixture
def sigusr1() -> Iterator[None]:
    """Puts back what SIGUSR1 did."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_in_the_foreground_the_log_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for logfile in (None, "-"):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        observer = json_observer({"nodaemon": 1, "logfile": logfile})
        Logger(namespace="here", observer=observer).info("Hello")
        assert json.loads(out.getvalue())["message"] == "Hello"


def test_a_daemon_logs_to_a_file_that_sigusr1_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigusr1: None
) -> None:
    from twisted.internet import reactor

    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    observer = json_observer({"nodaemon": 0, "logfile": None})
    assert isinstance(observer, FileLogObserver)
    Logger(namespace="here", observer=observer).info("one")
    assert json.loads((tmp_path / "twistd.log").read_text())["message"] == "one"
    calls: list[Any] = []
    monkeypatch.setattr(reactor, "callFromThread", calls.append)
    signal.raise_signal(signal.SIGUSR1)
    for call in calls:
        call()
    assert (tmp_path / "twistd.log.1").exists()
    observer._outFile.close()


def test_an_existing_handler_of_sigusr1_is_kept(tmp_path: Path, sigusr1: None) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    observer: Any = json_observer({"nodaemon": 0, "logfile": str(tmp_path / "log")})
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    observer._outFile.close()


@pytest.mark.parametrize(
    ("twistd", "says"),
    [
        (None, "twist"),
        ({}, "twist"),
        ({"nodaemon": 1, "logger": "some.observer"}, "--logger"),
        ({"nodaemon": 1, "syslog": 1}, "--syslog"),
        ({"nodaemon": 0, "logfile": "/no/such/folder/log"}, "/no/such/folder/log"),
        ({"nodaemon": 0, "logfile": "/"}, "--logfile"),
    ],
)
def test_json_is_refused_if_it_cannot_be_logged_where_twistd_logs(twistd: dict[str, Any] | None, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^--log(-format|file): ") as caught:
        json_observer(twistd)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_service_that_cannot_log_as_asked_leaves_nothing_bound(tmp_path: Path) -> None:
    options = Options()
    options.parseOptions(["--log-format", "json", "--listen", f"unix:{tmp_path}/x", "--listen", "tcp:0"])
    with pytest.raises(SystemExit, match="--log-format"):
        makeService(options)
    assert not list(tmp_path.iterdir())


class _Application:
    def __init__(self) -> None:
        self.components: list[object] = []

    def setComponent(self, interface: object, component: object) -> None:
        self.components += [interface, component]

    def addService(self, service: object) -> None:
        self.components.append(service)


def test_the_service_gives_its_observer_to_the_application() -> None:
    options = Options()
    options.parseOptions(["--log-format", "json", "--listen", "udp:0:interface=127.0.0.1"])
    options.parent = {"nodaemon": 1}  # type: ignore[assignment]  # twistd's options, as far as they are read
    service = makeService(options)
    application = _Application()
    service.setServiceParent(application)
    assert service.observer in application.components
    assert service in application.components
    service.unbind()
