# mypy: allow-untyped-calls
# (twisted.python.logfile has no types.)
"""The log as JSON Lines."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel, eventAsText, textFileLogObserver
from twisted.python.failure import Failure

from greetsvc.daemon import logs as logs_module
from greetsvc.daemon.logs import LINES, ROTATED, LimitedObserver, OwnLogFile, event_as_json, open_log
from greetsvc.daemon.owner import Owner
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


def _event(level: Any = LogLevel.info, **event: Any) -> dict[str, Any]:
    return {"log_time": 0.5, "log_level": level, "log_namespace": "here", "log_format": "Hello {who}", **event}


def test_in_the_foreground_the_log_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for logfile in (None, "-"):
        for form in ("text", "json"):
            out = io.StringIO()
            monkeypatch.setattr(sys, "stdout", out)
            log = open_log({"nodaemon": 1, "logfile": logfile}, form, Owner())
            assert log.file is None
            assert log.observer is not None
            log.observer(_event(who="you"))
            said = out.getvalue()
            if form == "json":
                assert json.loads(said)["message"] == "Hello you"
            else:
                assert said.endswith("[here#info] Hello you\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_daemon_logs_to_a_file_that_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    log = open_log({"nodaemon": 0, "logfile": None}, form, Owner())
    assert log.observer is not None
    log.observer(_event(who="one"))
    log.rotate()
    log.observer(_event(who="two"))
    assert "Hello one" in (tmp_path / "twistd.log.1").read_text()
    assert "Hello two" in (tmp_path / "twistd.log").read_text()
    assert log.file is not None
    log.file.close()


def test_a_check_of_the_log_file_makes_none(tmp_path: Path) -> None:
    options = {"nodaemon": 0, "logfile": str(tmp_path / "log")}
    open_log(options, "text", Owner(), check=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "log").write_text("before\n")
    open_log(options, "text", Owner(), check=True)
    assert (tmp_path / "log").read_text() == "before\n"


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("name", ["/no/such/folder/log", "/", "/dev/null/log"])
def test_a_log_file_that_cannot_be_written_is_one_line(name: str, check: bool) -> None:
    with pytest.raises(ConfigError, match=f"^--logfile: '{name}' cannot be written: ") as caught:
        open_log({"nodaemon": 0, "logfile": name}, "text", Owner(), check=check)
    assert str(caught.value).isprintable()
    assert str(caught.value).count(name) == 1 or name == "/"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("text", ["Grüße, Ωmega", "\udcff undecodable", "👋 hello"])
def test_a_line_that_cannot_be_encoded_is_escaped_and_not_lost(
    encoding: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    log = open_log({"nodaemon": 1, "logfile": ""}, "text", Owner())
    assert log.observer is not None
    log.observer(_event(who=text))
    assert (
        raw.getvalue()
        .decode(encoding)
        .endswith(f"Hello {text.encode(encoding, 'backslashreplace').decode(encoding)}\n")
    )
    log = open_log({"nodaemon": 0, "logfile": str(tmp_path / "log")}, "text", Owner())
    assert log.observer is not None
    assert log.file is not None
    log.observer(_event(who=text))
    log.file.close()
    assert (tmp_path / "log").read_bytes().endswith(f"Hello {text}\n".encode("utf-8", "backslashreplace"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> int:
    """Log files are rotated when they are this long."""
    monkeypatch.setattr(logs_module, "LONGEST", 10_000)
    return 10_000


def test_a_file_that_cannot_be_rotated_says_so_once_each_time_it_has_grown_by_as_much_again(
    tmp_path: Path, log_lines: list[str], monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    file = OwnLogFile(str(tmp_path / "log"), Owner())
    monkeypatch.setattr(logs_module, "locked", lambda _path: "its folder is not writable for this user")
    for number in range(3):
        assert len(log_lines) == number
        for _ in range(12):
            file.write("x" * (short // 10))
    assert log_lines == [f"{tmp_path}/log cannot be rotated: its folder is not writable for this user"] * 3
    file.close()
    assert not (tmp_path / "log.1").exists()


def test_what_is_no_plain_file_is_never_renamed(log_lines: list[str], short: int) -> None:
    file = OwnLogFile("/dev/null", Owner())
    for _ in range(12):
        file.write("x" * (short // 10))
    file.rotate()
    file.follow()
    file.close()
    assert Path("/dev/null").is_char_device()
    assert not log_lines


def test_a_bounded_number_of_old_files_is_kept(tmp_path: Path, short: int) -> None:
    file = OwnLogFile(str(tmp_path / "log"), Owner())
    for _ in range(15):
        file.write("x" * short)
        file.follow()
    file.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"log", *(f"log.{number}" for number in range(1, ROTATED + 1))}


def test_a_file_that_was_moved_or_removed_is_opened_again(tmp_path: Path) -> None:
    """As logrotate does it, with a new file of the mode that it wants, or without one."""
    path = tmp_path / "log"
    file = OwnLogFile(str(path), Owner())
    file.write("one\n")
    path.rename(tmp_path / "old")
    file.write("two\n")
    path.touch(0o640)
    file.follow()
    file.write("three\n")
    path.unlink()
    before = os.umask(0o077)  # as in a daemon
    try:
        file.follow()
        file.write("four\n")
        file.rotate()
    finally:
        os.umask(before)
    file.write("five\n")
    file.close()
    assert (tmp_path / "old").read_text() == "one\ntwo\n"
    assert (tmp_path / "log.1").read_text() == "four\n"
    assert path.read_text() == "five\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert {each.name for each in tmp_path.iterdir()} == {"log", "log.1", "old"}


def test_a_rotation_that_makes_no_new_file_goes_on_with_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    """As on a disk without an inode for it. Later there is room again."""
    log = OwnLogFile(str(tmp_path / "log"), Owner())
    log.write("one\n")
    full = True
    real = open

    def opened(path: Any, *arguments: Any, **options: Any) -> Any:
        if full and str(path) == log.path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", opened)
    descriptors = len([*Path("/dev/fd").iterdir()])
    log.follow()
    log.write("two\n")
    assert log_lines == [f"{log.path} cannot be rotated: No space left on device"]
    full = False
    assert Path(log.path).read_text() == "one\ntwo\n"
    assert len([*Path("/dev/fd").iterdir()]) == descriptors
    log.follow()
    log.write("three\n")
    assert Path(log.path).read_text() == "three\n"
    assert Path(f"{log.path}.1").read_text() == "one\ntwo\n"
    log.close()


class FullDisk:
    """A file of which three bytes more have room, and then none."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.room = 3

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self.room = data[: self.room], 0
        return int(self.file.write(taken))


@pytest.mark.parametrize("lost", [0, 2])
def test_a_line_after_a_full_disk_is_a_line_of_its_own(tmp_path: Path, lost: int) -> None:
    """The disk takes a part of a line, and that is no error; it may have room again before the next line."""
    log = OwnLogFile(str(tmp_path / "log"), Owner())
    log.write("whole\n")
    file = log._file
    log._file = cast(Any, FullDisk(file))
    log.write("half a line\n")
    for _ in range(lost):
        with pytest.raises(OSError, match="No space left"):
            log.write("lost\n")
    log._file = file
    log.write("again\n")
    log.write("more\n")
    assert Path(log.path).read_text() == "whole\nhal\nagain\nmore\n"
    log.close()


def test_a_file_that_was_cut_has_no_hole_and_is_not_rotated_early(tmp_path: Path, short: int) -> None:
    """As logrotate does it with copytruncate."""
    path = tmp_path / "log"
    file = OwnLogFile(str(path), Owner())
    file.write("x" * (short - 1))
    path.write_text("")
    file.write("yy")
    file.write("z")
    file.close()
    assert path.read_text() == "yyz"
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_a_file_that_cannot_be_opened_again_goes_on_where_it_is(tmp_path: Path, log_lines: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = OwnLogFile(str(folder / "log"), Owner())
    folder.rename(tmp_path / "away")
    file.follow()
    file.write("still here\n")
    file.close()
    assert (tmp_path / "away" / "log").read_text() == "still here\n"
    assert log_lines == [f"{folder}/log cannot be opened again: No such file or directory"]


class _Observed:
    """A limited observer with a clock that the test turns, and what it passes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.clock = Clock()
        self.limited = LimitedObserver(
            lambda event: self.lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False)),  # type: ignore[arg-type]
            lambda call: self.clock.callLater(1, call),
            self.clock.seconds,
        )


@pytest.mark.parametrize(
    "event",
    [
        {"log_format": "Closed the descriptor {fd}"},
        {"format": "%(fd)r from a peer", "log_format": "{log_text}"},
        {"log_format": "no field at all"},
    ],
)
def test_fifty_lines_of_a_kind_are_logged_in_a_second_and_the_others_summed_up(event: dict[str, str]) -> None:
    seen = _Observed()
    for second in range(3):
        seen.lines.clear()
        for number in range(1000):
            seen.limited(_event(fd=number, log_text=f"{number}", **event))
        seen.limited(_event(who="another"))
        assert len(seen.lines) == LINES + 1
        seen.clock.advance(1)
        (line,) = seen.lines[LINES + 1 :]
        kind = event.get("format") or event["log_format"]
        assert line == f"Left out 950 log messages (more than 50 lines a second of one kind): 950 of {kind}", second
    seen.clock.advance(5)
    assert len(seen.lines) == LINES + 2
    assert not seen.clock.getDelayedCalls()


def test_tracebacks_are_limited_more_and_by_the_type_of_the_exception() -> None:
    seen = _Observed()
    for error in (ValueError("x"), KeyError("x")):
        for _ in range(100):
            seen.limited(_event(log_format="Unhandled", log_failure=Failure(error)))
    assert len(seen.lines) == 4
    seen.clock.advance(1)
    assert seen.lines[4:] == [
        "Left out 196 log messages (more than 50 lines a second of one kind): 98 of Unhandled; 98 of Unhandled"
    ]


def test_messages_that_are_made_up_each_time_are_limited_too() -> None:
    seen = _Observed()
    for number in range(100_000):
        seen.limited(_event(log_format=f"peer {number} says hello"))
    assert len(seen.lines) < 400
    seen.clock.advance(1)
    assert seen.lines[-1].startswith("Left out ")
    assert len(seen.lines) < 400


def test_the_log_that_twist_makes_is_limited_and_escapes() -> None:
    raw = io.BytesIO()
    twist: dict[str, Any] = {"fileLogObserverFactory": textFileLogObserver}
    assert open_log(twist, "text", Owner()).observer is None
    observer = twist["fileLogObserverFactory"](io.TextIOWrapper(raw, "ascii"))
    assert isinstance(observer, LimitedObserver)
    observer(_event(who="Grüße"))
    assert rb"Hello Gr\xfc\xdfe" in raw.getvalue()


@pytest.mark.parametrize(
    "options", [None, {"nodaemon": 1, "logger": "some.observer"}, {"nodaemon": 0, "logfile": "-"}]
)
def test_what_others_log_is_left_to_them(options: Any) -> None:
    assert open_log(options, "text", Owner()).observer is None


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
        open_log(twistd, "json", Owner())
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
