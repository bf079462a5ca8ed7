"""A program that the fork server runs (see there), as `subprocess.Popen` would show it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.support.stand_in import begin


class Forked:
    """A program that was started by the fork server that listens at ``server``; the name of ``argv[0]`` says which.

    It writes to ``output`` and reads nothing.
    """

    def __init__(
        self, server: Path, argv: Sequence[str], folder: Path, environment: Mapping[str, str], output: IO[bytes]
    ) -> None:
        self.args = argv
        self.returncode: int | None = None
        with Path(os.devnull).open("rb") as nothing:
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            begun, self.pid = begin(str(server), [*argv], dict(environment), str(folder), streams)
        self._status = socket.socket(fileno=begun.detach())

    def poll(self) -> int | None:
        """The exit status, or the number of the signal that ended it, negated; None while it runs."""
        return self._read(0)

    def wait(self, seconds: float) -> int:
        """The same, waiting for the end. Raises `subprocess.TimeoutExpired`."""
        status = self._read(seconds)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, seconds)
        return status

    def _read(self, seconds: float) -> int | None:
        if self.returncode is None:
            self._status.settimeout(seconds)
            try:
                self.returncode = int.from_bytes(self._status.recv(4), "big", signed=True)
            except (BlockingIOError, TimeoutError):
                return None
            self._status.close()
        return self.returncode
