"""Takes the place of a script: has the fork server (see there) run the program of its name, and ends as that ends.

It is started as ``python -IS``, and imports next to nothing: it must start fast.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import os
import sys
import time
from array import array
from resource import RLIMIT_NOFILE, getrlimit

PASSED_ON = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR1)


def begin(
    path: str, argv: list[str], environment: dict[str, str], folder: str, streams: list[int]
) -> tuple[_socket.socket, int]:
    """Have the program started with these standard streams; the connection on which its status comes, and its pid."""
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    for _ in range(3000):
        try:
            server.connect(path)
        except OSError:  # it has just been started
            time.sleep(0.01)
        else:
            break
    umask = os.umask(0)
    os.umask(umask)
    asked = {
        "argv": argv,
        "environment": environment,
        "folder": folder,
        "umask": umask,
        "files": getrlimit(RLIMIT_NOFILE),
    }
    body = marshal.dumps(asked)
    request = len(body).to_bytes(4, "big") + body
    sent = server.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", streams))])
    while sent < len(request):
        sent += server.send(request[sent:])
    return server, int.from_bytes(server.recv(4), "big")


def main(path: str) -> None:
    # The program may have done what a test waits for, and the signal come, before its pid is known here.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, PASSED_ON)
    server, pid = begin(path, sys.argv, dict(os.environ), os.getcwd(), [0, 1, 2])  # noqa: PTH109

    def pass_on(number: int, _: object) -> None:
        try:  # noqa: SIM105 (contextlib takes time to import)
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended, and its status is on the way
            pass

    for number in PASSED_ON:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, pass_on)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, PASSED_ON)
    status = int.from_bytes(server.recv(4), "big", signed=True)
    if status < 0:
        _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
