"""Faults of this host: one verdict, exit status 2, the right cause, and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from greetsvc import GreetFailed, Run, greet, greet_ex, greet_many
from greetsvc.client.report.causes import likely_cause
from tests.support.greet import FORKED, GREET

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

COMMANDS = [
    ["udp:127.0.0.1:1"],
    ["127.0.0.1:1"],
    ["--insecure", "tls:127.0.0.1:1"],
    ["unix:/nonexistent"],
    ["unixgram:/nonexistent"],
    ["localhost:1"],
    ["-c", "2", "-i", "0", "udp:127.0.0.1:1"],
    ["--nagios", "127.0.0.1:1"],
    ["--healthcheck", "127.0.0.1:1"],
    ["--json", "udp:127.0.0.1:1"],
    ["--duration", "0.2", "127.0.0.1:1"],
    ["--duration", "0.2", "udp:127.0.0.1:1"],
]


def limited(limit: str, *arguments: str, program: str = GREET) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'ulimit {limit} && exec "$0" "$@"', program, "-t", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_linux
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_without_descriptors(arguments: list[str]) -> None:
    """None for the reactor, none for the socket, or just enough."""
    for descriptors in (5, 6, 7, 8, 9):
        done = limited(f"-n {descriptors}", *arguments, program=FORKED)
        said = done.stdout + done.stderr
        assert done.returncode == 2, said
        assert "Traceback" not in said
        assert "dropped on the way" not in said
        assert descriptors > 6 or "--healthcheck" in arguments or "Too many open files" in said, said


@needs_linux
@pytest.mark.parametrize("descriptors", [5, 6, 7])
def test_without_descriptors_for_its_own_modules(descriptors: int) -> None:
    done = limited(f"-n {descriptors}", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert done.stderr == "greet: this host: Too many open files\n"


@needs_linux
def test_flows_without_descriptors() -> None:
    done = limited("-n 20", "--flows", "10", "udp:127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "greet: --flows 10: too many for a process that may open 20 files in all (ulimit -n)\n"


@needs_linux
@pytest.mark.parametrize("arguments", [["localhost:1"], ["--json", "udp:localhost:1"], ["-c", "2", "localhost:1"]])
@pytest.mark.parametrize("kilobytes", [40_000, 50_000, 64_000])  # near 57 MB, libraries in C crash
def test_with_little_memory(arguments: list[str], kilobytes: int) -> None:
    done = limited(f"-v {kilobytes}", "-i", "0", *arguments)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """All descriptors of this process are in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 400), before[1]))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "udp:127.0.0.1:1", "unixgram:/n", "udp:[::1]:1"])
@pytest_twisted.ensureDeferred
async def test_from_python_it_is_greet_failed(target: str) -> None:
    await greet_ex(target, timeout=1)  # what is imported late is there now
    with no_more_descriptors():
        with pytest.raises(GreetFailed) as caught:
            await greet(target, timeout=1)
        assert await greet_ex(target, timeout=1) == errno.EMFILE
        results = [result async for result in greet_many(target, timeout=1, count=2, interval=0)]
    await deferLater(cast("Any", reactor), 0.0, lambda: None)  # a turn, for the timers that were cancelled
    assert [getattr(result, "errno", None) for result in results] == [errno.EMFILE] * 2
    assert caught.value.errno == errno.EMFILE
    assert caught.value.never_sent
    assert likely_cause(caught.value) == (
        "likely: this process may not open more files: raise its limit (ulimit -n)",
    )


@pytest_twisted.ensureDeferred
async def test_a_load_run_from_python() -> None:
    run = Run("udp:127.0.0.1:1", duration=0.1)
    with no_more_descriptors():
        with pytest.raises(GreetFailed) as caught:
            await run.go()
        limited = Run("127.0.0.1:1", duration=0.1)
    assert caught.value.errno == errno.EMFILE
    assert limited.concurrency == 1


@pytest.mark.parametrize("target", ["udp:127.0.0.1:1", "127.0.0.1:1"])
@pytest_twisted.ensureDeferred
async def test_no_socket_of_this_family(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

        def __del__(self) -> None:
            """There is nothing to close."""

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(GreetFailed) as caught:
        await greet(target, timeout=1)
    monkeypatch.undo()
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert "this host has no such address family" in likely_cause(caught.value)[0]


@needs_linux
def test_a_json_probe_object_has_the_errno() -> None:
    done = limited("-n 8", "--json", "udp:127.0.0.1:1")
    failed = json.loads(done.stdout)
    assert (failed["ok"], failed["errno"]) in ((False, errno.EMFILE), (False, errno.ECONNREFUSED))


WITHOUT_MEMORY = """
import sys
from twisted.internet import reactor
from twisted.python import log
from greetsvc.cli import main

def fail():
    raise MemoryError("somewhere")

def fail_as_of_old():
    try:
        fail()
    except MemoryError:
        log.err()

reactor.callLater(0, {call})
sys.exit(main())
"""


@pytest.mark.parametrize(
    "call", ["fail", "fail_as_of_old", "reactor.callInThread, lambda: reactor.callFromThread(fail)"]
)
def test_memory_that_ends_in_the_midst_of_a_callback_ends_the_run(call: str) -> None:
    """What the callback was to do is not done: it may have been what ends the run."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [sys.executable, "-c", WITHOUT_MEMORY.format(call=call)]
        command += ["-t", "50", f"127.0.0.1:{silent.getsockname()[1]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "greet: this host: out of memory\n")
