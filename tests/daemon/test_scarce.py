"""A host that is short of what a service needs: it greets, or it says so in one line."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from greetsvc.daemon import tap
from tests.support.process import STARTED, Program
from tests.support.service import Visitor
from tests.support.waiting import wait_until


@pytest.mark.parametrize("files", [*range(6, 14), 20])
def test_with_few_descriptors_it_greets_or_ends_with_one_line(
    child: Callable[..., Program], visitor: Visitor, files: int
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    program = child("--listen", "tcp:0:interface=127.0.0.1", preexec_fn=limit)
    wait_until(lambda: STARTED in program.said() or not program.alive(), program.said)
    if program.alive():
        assert visitor.visit(program.ports()[0]) == b"Thank you for connecting\r\n"
        assert program.stop() == 0
    else:
        assert files < 20
        assert program.wait() == 1
        (line,) = program.said().splitlines()
        assert line.startswith("greetsvc: ")
        assert "Too many open files" in line


def test_with_too_little_memory_for_its_tables_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_little(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tap, "GreetingService", too_little)
    options = tap.Options()
    options.parseOptions(["--listen", "tcp:0"])
    with pytest.raises(SystemExit, match=r"^greetsvc: this host: out of memory$"):
        tap.makeService(options)
