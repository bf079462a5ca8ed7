"""Greetings from files: read again when they change, kept when they cannot be read."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.files import LONGEST
from greetsvc.greeters.file import FileGreeter
from greetsvc.greeters.fortune import LONGEST as LONGEST_FORTUNE
from greetsvc.greeters.fortune import FortuneGreeter, parse_fortunes
from greetsvc.greeters.watched_file import WatchedFile
from greetsvc.visit import Address, Visit

VISIT = Visit("tcp", Address("", 0), Address("", 0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a greeting."""
    found = tmp_path / "greeting"
    found.write_bytes(b"one\n")
    return found


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def test_the_greeting_is_the_file_byte_for_byte(path: Path) -> None:
    path.write_bytes(bytes(range(256)))
    assert FileGreeter(str(path)).greet(VISIT) == bytes(range(256))


def test_an_empty_file_is_an_empty_greeting(path: Path) -> None:
    path.write_bytes(b"")
    assert FileGreeter(str(path)).greet(VISIT) == b""


def test_a_file_that_changes_is_read_again(path: Path) -> None:
    greeter = FileGreeter(str(path))
    path.write_bytes(b"another\n")
    assert greeter.greet(VISIT) == b"another\n"


def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_read_again(path: Path) -> None:
    greeter = FileGreeter(str(path))
    before = path.stat()
    _replace(path, b"two\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert greeter.greet(VISIT) == b"two\n"


def _rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _rewrite_in_place(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def _link_another(path: Path, data: bytes) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(data)
    path.unlink()
    os.link(other, path)


@pytest.mark.parametrize("change", [_rewrite, _rewrite_in_place, _replace, _link_another])
@pytest.mark.parametrize("kind", [FileGreeter, FortuneGreeter])
def test_a_change_that_keeps_size_and_time_of_modification_is_read(
    path: Path, change: Callable[[Path, bytes], None], kind: type[FileGreeter | FortuneGreeter]
) -> None:
    greeter = kind(str(path))
    before = path.stat()
    for data in (b"two\n", b"six\n", b"ten\n"):
        # At once, so that several changes fall between two ticks of the clock that stamps them.
        change(path, data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert greeter.greet(VISIT) == data


def test_a_file_that_was_refused_is_read_again_when_it_is_mended_at_once(path: Path) -> None:
    greeter = FortuneGreeter(str(path))
    before = path.stat()
    for data, expected in ((b"  \n\n", b"one\n"), (b"two\n", b"two\n")):
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert greeter.greet(VISIT) == expected


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts as old at once."""
    monkeypatch.setattr("greetsvc.greeters.watched_file._TICK", 0)


@pytest.mark.usefixtures("settled")
def test_a_file_that_does_not_change_is_not_read_again(path: Path) -> None:
    reads = Counter[str]()

    def parse(data: bytes) -> bytes:
        reads["parsed"] += 1
        return data

    watched = WatchedFile(str(path), parse)
    for _ in range(5):
        assert watched.content() == b"one\n"
    assert reads["parsed"] == 1


@pytest.mark.usefixtures("settled")
def test_a_file_that_was_refused_is_not_read_again_until_it_changes(path: Path, log_lines: list[str]) -> None:
    reads: list[int] = []

    def parse(data: bytes) -> bytes:
        reads.append(len(data))
        if data != b"one\n":
            raise ValueError("bad")
        return data

    watched = WatchedFile(str(path), parse)
    for size in (5, 6):
        path.write_bytes(b"x" * size)
        assert [watched.content() for _ in range(3)] == [b"one\n"] * 3
    assert reads == [4, 5, 6]
    assert len(log_lines) == 1


def test_a_relative_path_stays_the_same_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    greeter = FileGreeter("greeting")
    monkeypatch.chdir("/")
    path.write_bytes(b"another\n")
    assert greeter.greet(VISIT) == b"another\n"


def _vanish(path: Path) -> None:
    path.unlink()


def _grow(path: Path) -> None:
    path.write_bytes(b"x" * (LONGEST + 1))


def _become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("trouble", [_vanish, _grow, _become_a_fifo, _become_a_folder])
def test_the_last_good_content_is_kept_and_each_problem_is_logged_once(
    trouble: Callable[[Path], None], path: Path, log_lines: list[str]
) -> None:
    greeter = FileGreeter(str(path))
    trouble(path)
    assert [greeter.greet(VISIT) for _ in range(3)] == [b"one\n"] * 3
    assert len(log_lines) == 1
    assert str(path) in log_lines[0]
    if path.is_dir():
        path.rmdir()
    _replace(path, b"back\n")
    assert greeter.greet(VISIT) == b"back\n"
    _vanish(path)
    assert greeter.greet(VISIT) == b"back\n"
    assert len(log_lines) == 2


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(PermissionError):
        FileGreeter(str(path))


def test_a_file_that_may_not_be_read_any_more_keeps_its_content(
    path: Path, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    greeter = FileGreeter(str(path))

    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    path.write_bytes(b"secret now\n")
    monkeypatch.setattr(os, "open", forbidden)
    assert greeter.greet(VISIT) == b"one\n"
    assert "Permission denied" in log_lines[0]


@pytest.mark.parametrize("kind", [FileGreeter, FortuneGreeter])
def test_anything_but_a_plain_file_is_refused_at_once(
    kind: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path in (str(fifo), str(tmp_path), "/dev/null", "/dev/zero"):
            with pytest.raises(ValueError, match="is not a plain file"):
                kind(path)
        with pytest.raises(OSError, match="socket"):
            kind("socket")
    with pytest.raises(FileNotFoundError):
        kind(str(tmp_path / "missing"))
    for path in ("", "a\0b"):
        with pytest.raises(ValueError, match=r"path is missing|holds a NUL"):
            kind(path)


def test_a_file_may_be_as_long_as_a_megabyte_and_no_longer(path: Path) -> None:
    path.write_bytes(b"x" * LONGEST)
    assert len(FileGreeter(str(path)).greet(VISIT)) == LONGEST
    path.write_bytes(b"x" * (LONGEST + 1))
    with pytest.raises(ValueError, match=f"longer than {LONGEST} bytes"):
        FileGreeter(str(path))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one", [b"one"]),
        (b"one\n%\ntwo\n", [b"one\n", b"two\n"]),
        (b"one\n%\ntwo\n%\n", [b"one\n", b"two\n"]),
        (b"one\n%\ntwo\n%", [b"one\n", b"two\n"]),
        (b"one\r\n%\r\ntwo\r\n%\r\n", [b"one\r\n", b"two\r\n"]),
        (b"%\n%\none\n%\n\n%\n  \n%\n", [b"one\n"]),
        (b"100 %\n%\n% of it\n", [b"100 %\n", b"% of it\n"]),
        (b"a\nb\n%\nc\n", [b"a\nb\n", b"c\n"]),
    ],
)
def test_sayings_are_separated_by_lines_of_one_percent_sign(data: bytes, expected: list[bytes]) -> None:
    assert parse_fortunes(data) == expected


@pytest.mark.parametrize("data", [b"", b"\n", b"%\n%\n", b"x" * 512, b"%"])
def test_a_file_without_a_saying_short_enough_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no saying"):
        FortuneGreeter.from_argument(str(path), "utf-8")


def test_sayings_have_at_most_511_bytes_and_longer_ones_are_skipped(path: Path) -> None:
    path.write_bytes(b"x" * 511 + b"\n%\n" + b"y" * 510 + b"\n%\nz\n")
    greeter = FortuneGreeter(str(path))
    said = {greeter.greet(VISIT) for _ in range(60)}
    assert said == {b"y" * 510 + b"\n", b"z\n"}
    assert LONGEST_FORTUNE == 511


def test_a_fortune_file_that_goes_bad_keeps_the_old_sayings(path: Path, log_lines: list[str]) -> None:
    greeter = FortuneGreeter(str(path))
    _replace(path, b"")
    assert greeter.greet(VISIT) == b"one\n"
    assert len(log_lines) == 1
    _replace(path, b"new\n")
    assert greeter.greet(VISIT) == b"new\n"


@given(st.binary(max_size=1500))
def test_any_file_has_short_sayings_or_is_refused(data: bytes) -> None:
    try:
        sayings = parse_fortunes(data)
    except ValueError:
        return
    assert all(0 < len(saying) <= LONGEST_FORTUNE and saying in data for saying in sayings)


def test_greeters_of_files_need_the_time_so_that_no_greeting_is_kept(path: Path) -> None:
    for greeter in (FileGreeter.from_argument(str(path), "utf-8"), FortuneGreeter(str(path))):
        assert greeter.needs == {"when"}
