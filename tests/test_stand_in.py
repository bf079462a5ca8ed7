"""What stands in for a command in the tests: signals reach the program whenever they come."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import stand_in
from tests.support.fork_server import receive

BEGUN = f"from runpy import run_path; run_path({stand_in.__file__!r})['main']({{!r}})"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_program_before_its_pid_is_known_and_harms_nobody_after_its_end(
    tmp_path: Path, number: int
) -> None:
    place = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, subprocess.Popen(["sleep", "20"]) as program:
        listener.bind(place)
        listener.listen()
        listener.settimeout(10)
        command = [sys.executable, "-IS", "-c", BEGUN.format(place)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as standing_in:
            connection, _ = listener.accept()
            with connection:
                _, streams = receive(connection)
                for stream in streams:
                    os.close(stream)
                standing_in.send_signal(number)
                connection.sendall(program.pid.to_bytes(4, "big"))
                assert program.wait(10) == -number
                standing_in.send_signal(number)
                connection.sendall((2).to_bytes(4, "big"))
                _, complained = standing_in.communicate(timeout=10)
    assert (standing_in.returncode, complained) == (2, b"")
