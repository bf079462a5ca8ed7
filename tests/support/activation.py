"""A service manager's part in socket activation: it holds listening sockets, and starts programs that get them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from tests.support.process import Program

# What a service manager does between fork and exec (sd_listen_fds(3)).
_EXEC = """
import fcntl, os, sys
numbers, names, *words = sys.argv[1:]
copies = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 200) for each in numbers.split(",") if each]
os.closerange(3, 200)
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
os.closerange(200, 400)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(copies)))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(words[0], words)
"""


@frozen
class Manager:
    """Holds ``sockets`` under ``names``; without names, the variable for them is left out."""

    sockets: Sequence[socket.socket]
    names: Sequence[str] = ()

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words``, an absolute path first, with the sockets."""
        numbers = ",".join(str(sock.fileno()) for sock in self.sockets)
        return [sys.executable, "-c", _EXEC, numbers, ":".join(self.names) or "-", *words]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the program must inherit."""
        return tuple(sock.fileno() for sock in self.sockets)

    def start(self, child: Callable[..., Program], *options: str, **popen: Any) -> Program:
        """Start the service, with the fixture ``child``."""
        words = self.command(sys.executable, "-m", "greetsvc", *options)[1:]
        return child(command=tuple(words), pass_fds=self.descriptors, **popen)
