"""A host that is short of what a service needs: it greets, or it says so in one line."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from greetsvc.daemon import tap
from tests.support.process import STARTED, Program
from tests.support.service import Visitor
from tests.support.waiting import wait_until

LOCAL = "interface=127.0.0.1"
TCP, UDP = f"tcp:0:{LOCAL}", f"udp:0:{LOCAL}"


def started(child: Callable[..., Program], *options: str, files: int, **variables: str) -> Program | None:
    """A service that may have so many files open, or None if it ended with one line about that."""
    program = child(
        *options,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files)),
        env={**os.environ, **variables},
    )
    wait_until(lambda: STARTED in program.said() or not program.alive(), program.said)
    if program.alive():
        return program
    assert program.wait() == 1
    (line,) = program.said().splitlines()
    assert line.startswith("greetsvc: ")
    return None


@pytest.mark.parametrize("files", [6, 7, 8, 11, 12, 13, 14, 15, 30])
@pytest.mark.parametrize(
    "options",
    [["--listen", TCP] * 3, ["--listen", UDP], ["--listen", TCP, "--listen", UDP, "--admin", TCP]],
    ids=["three TCP", "UDP", "with a site"],
)
def test_with_few_descriptors_it_greets_or_ends_with_one_line(
    child: Callable[..., Program], visitor: Visitor, options: list[str], files: int
) -> None:
    program = started(child, *options, files=files)
    if program is None:
        assert files < 30
        return
    if TCP in options:
        assert visitor.visit(program.ports()[0]) == b"Thank you for connecting\r\n"
    assert program.stop() == 0


def test_with_too_few_descriptors_for_its_service_manager_it_ends_with_one_line(
    child: Callable[..., Program], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for files in (6, 7):
            assert started(child, "--listen", TCP, files=files, NOTIFY_SOCKET=str(tmp_path / "notify")) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.ENFILE, "Too many open files in system"), "Too many open files in system"),
    ],
)
def test_a_lack_of_anything_at_the_start_is_one_line(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_little(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tap, "GreetingService", too_little)
    options = tap.Options()
    options.parseOptions(["--listen", "tcp:0"])
    with pytest.raises(SystemExit, match=f"^greetsvc: this host: {says}$"):
        tap.makeService(options)
