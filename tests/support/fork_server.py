"""A Python that has imported greetsvc already, and forks itself for each program of ours that a test runs.

To start one costs 0.3 s of processor time, nearly all of it imports, and hundreds of tests do it. This way it costs
a tenth. `tests/support/stand_in` takes the place of the script: it passes on its arguments, environment, limit
of files, folder and standard streams, and ends as the forked process ends. What depends on how Python itself starts
(imports, text encoding, closed streams), or starts itself again (workers, upgrades), needs the script.
"""

from __future__ import annotations

import array
import gc
import marshal
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TextIO


class Request(NamedTuple):
    """What the stand-in asked to run."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    umask: int
    files: tuple[int, int]


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """A request and the three standard streams that came with it. Raises `EOFError`."""
    data, passed = b"", array.array("i")
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        part, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(3 * passed.itemsize))
        if not part:
            raise EOFError
        data += part
        for *_, descriptors in ancillary:
            passed.frombytes(descriptors)
    return Request(**marshal.loads(data[4:])), passed.tolist()


def serve(path: str) -> Request | None:
    """Listen at ``path`` until that is removed; returns in each forked process, with what to run there."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    woken, wake = socket.socketpair()
    for sock in (listener, woken, wake):
        sock.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        gc.freeze()
        while os.path.exists(path):  # noqa: PTH110
            for key, _ in selector.select(1):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    try:
                        request, streams = receive(connection)
                    except EOFError:
                        connection.close()
                        continue
                    pid = os.fork()
                    if not pid:
                        become(request, streams)
                        return request
                    for stream in streams:
                        os.close(stream)
                    connection.sendall(pid.to_bytes(4, "big"))
                    running[pid] = connection
                    selector.register(connection, selectors.EVENT_READ, pid)
                elif key.fileobj is woken:
                    woken.recv(4096)
                    for pid, status in ended():
                        with running.pop(pid) as connection, suppress(KeyError, OSError):  # its stand-in has gone
                            selector.unregister(connection)
                            code = os.waitstatus_to_exitcode(status)
                            connection.sendall(code.to_bytes(4, "big", signed=True))
                elif key.data in running:  # the stand-in was killed
                    os.kill(key.data, signal.SIGKILL)
                    selector.unregister(key.fileobj)
    return None


def ended() -> list[tuple[int, int]]:
    """The children that have ended, with their statuses."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status))


def become(request: Request, streams: list[int]) -> None:
    """Give this forked process what the stand-in has."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    os.umask(request.umask)
    resource.setrlimit(resource.RLIMIT_NOFILE, request.files)
    sys.path[:0] = filter(None, request.environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = request.argv
    sys.stdin = _stream(0, sys.__stdin__, "r")
    sys.stdout = _stream(1, sys.__stdout__, "w")
    sys.stderr = _stream(2, sys.__stderr__, "w")


def _stream(descriptor: int, like: TextIO | None, mode: str) -> Any:
    """A standard stream as Python makes it at its start."""
    errors = like.errors if like is not None else None
    lines = mode == "w" and (descriptor == 2 or os.isatty(descriptor))
    return open(descriptor, mode, 1 if lines else -1, errors=errors, closefd=False)


def main() -> None:
    """Import both programs, listen, and run one in each forked process."""
    import twisted.internet.default
    import twisted.internet.endpoints
    import twisted.scripts.twistd
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    import greetsvc.__main__
    import greetsvc.cli.command
    import greetsvc.client.load.run
    import greetsvc.client.report.terminal
    import greetsvc.daemon.command
    import greetsvc.daemon.service

    list(getPlugins(IServiceMaker))  # imports them
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
    programs: dict[str, Callable[[], Any]] = {
        "greet": greetsvc.cli.main,
        "greetsvc": greetsvc.__main__.main,
        "twistd": twisted.scripts.twistd.run,
    }
    request = serve(sys.argv[1])
    if request is None:
        return
    runpy.run_path(os.path.join(os.path.dirname(__file__), "measured.py"))  # noqa: PTH118, PTH120
    sys.exit(programs[os.path.basename(request.argv[0])]())  # noqa: PTH119


if __name__ == "__main__":
    main()
