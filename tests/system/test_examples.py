"""The examples do what they say, with an installed greetsvc."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.installed import Installed

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENDPOINT = "tcp:0:interface=127.0.0.1"
SECONDS = 10.0


def read(port: int, said: bytes = b"") -> bytes:
    """What a client reads to the end after it has said something."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer, peer.makefile("rb") as stream:
        peer.sendall(said)
        return stream.read()


def test_own_words_greets_in_a_plain_twisted_program(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "python", str(EXAMPLES / "own_words.py"), ENDPOINT)
    assert read(server.ports()[0]) == b"Hello 127.0.0.1, 1 of you are here\r\n"
    # More than a socket takes in, and none of it is read by the program.
    assert read(server.ports()[0], b"x" * 1_000_000).startswith(b"Hello 127.0.0.1, ")
    assert server.stop() == 0


def test_own_protocol_answers_a_peer_that_is_still_sending(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "python", str(EXAMPLES / "own_protocol.py"), ENDPOINT)
    assert read(server.ports()[0], b"hello") == b"HELLO"
    assert read(server.ports()[0], b"x" * 1_000_000).startswith(b"XXXX")
    assert server.stop() == 0


def test_own_datagrams_answers_from_the_address_the_request_was_sent_to(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "python", str(EXAMPLES / "own_datagrams.py"), "0")
    port = server.ports()[0]
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.settimeout(SECONDS)
        peer.connect(("127.0.0.2" if sys.platform == "linux" else "127.0.0.1", port))
        peer.send(b"no mark")
        peer.send(b"shout " + b"x" * 600)
        peer.send(b"shout hello")
        assert peer.recv(100) == b"HELLO"
        server.wait_for(f"A request to {peer.getpeername()[0]}")
    server.wait_for("Dropped: oversize")
    assert server.stop() == 0


@pytest.fixture
def countdown(installed: Installed, tmp_path: Path) -> Path:
    """A folder with the example package installed."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=EXAMPLES / "countdown", check=True, capture_output=True, timeout=SECONDS * 6)
    folder = tmp_path / "packages"
    wheel = str(next(tmp_path.glob("*.whl")))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=SECONDS * 6)
    return folder


def test_a_greeter_of_another_package_is_found(installed: Installed, tmp_path: Path, countdown: Path) -> None:
    found = installed.run(tmp_path, "twistd", "greetsvc", "--list", PYTHONPATH=str(countdown))
    assert "greeter countdown: The days left until DAY, as 2030-01-01.\n" in found.stdout
    options = ("--listen", ENDPOINT, "--greeter", "countdown:2000-01-01")
    server = installed.start(tmp_path, "greetsvc", *options, PYTHONPATH=str(countdown))
    assert read(server.ports()[0]) == b"0 days to go\r\n"
    assert server.stop() == 0
    command = ("twistd", "-n", "greetsvc", "--greeter", "countdown:soon")
    wrong = installed.run(tmp_path, *command, PYTHONPATH=str(countdown))
    line = "greetsvc: --greeter: 'countdown:soon': countdown needs a day, as countdown:2030-01-01, not 'soon'\n"
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == line


def test_the_example_settings_are_accepted(installed: Installed, tmp_path: Path) -> None:
    """Those of ``deploy/greetsvc.toml``, with ports that are free."""
    config = tmp_path / "greetsvc.toml"
    shipped = (ROOT / "deploy" / "greetsvc.toml").read_text()
    config.write_text(shipped.replace(":8088", ":0").replace("/run/greetsvc/", f"{tmp_path}/"))
    done = installed.run(tmp_path, "twistd", "greetsvc", "--check", "--config", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" says ") == shipped.count("[[listen]]") > 0
