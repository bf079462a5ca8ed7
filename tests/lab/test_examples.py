"""Each example is built, installed beside greetsvc in a clean environment, tested there, and talked to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import blocks
from tests.support.installed import Installed, install
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/pyproject.toml"))
ENDPOINT = "tcp:0:interface=127.0.0.1"


@pytest.fixture(scope="module")
def with_examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """An environment with the wheels of greetsvc and of all examples."""
    environment = install(tmp_path_factory.mktemp("examples"), EXAMPLES)
    yield environment
    environment.programs.kill()


def read(port: int, said: bytes = b"") -> bytes:
    """What a client reads to the end after it sent ``said`` and its FIN."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer, peer.makefile("rb") as stream:
        peer.sendall(said)
        peer.shutdown(socket.SHUT_WR)
        return stream.read()


def test_the_tests_of_the_examples_pass_where_they_are_installed(with_examples: Installed, tmp_path: Path) -> None:
    # Copies, and without the modules: what is tested is what was installed.
    for example in EXAMPLES:
        for data in (*example.glob("tests"), *example.glob("*.toml")):
            (tmp_path / example.name).mkdir(exist_ok=True)
            (shutil.copytree if data.is_dir() else shutil.copy)(data, tmp_path / example.name / data.name)
    pytest_ = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = with_examples.run(tmp_path, *pytest_, *(example.name for example in EXAMPLES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_finds_the_plugins_and_says_what_they_are(with_examples: Installed, tmp_path: Path) -> None:
    said = with_examples.run(tmp_path, "twistd", "greetsvc", "--list").stdout
    assert "greeter languages: The language of the visitor's network, from the table FILE (TOML).\n" in said
    assert "protocol echo: Greets, then sends each line back.\n" in said
    assert "protocol stamp: Reflects STAMP and TWAMP Light packets (RFC 8762).\n" in said
    shutil.copy(ROOT / "examples" / "languages" / "languages.toml", tmp_path)
    server = with_examples.twistd(tmp_path, "--listen", ENDPOINT, "--greeter", "languages:languages.toml")
    assert read(server.ports()[0]) == b"Willkommen, 127.0.0.1\r\n"
    server.stop()
    wrong = with_examples.run(tmp_path, "twistd", "-n", "greetsvc", "--greeter", "languages:missing.toml")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "languages:missing.toml" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_the_template_becomes_a_plugin_of_another_name(with_examples: Installed, tmp_path: Path) -> None:
    """By the commands of its README, up to the one that installs it."""
    (tmp_path / "greetsvc").symlink_to(ROOT)
    (shown,) = blocks(ROOT / "examples" / "plugin-template" / "README.md")
    *commands, install_and_test = [command for command, _ in shown.commands()]
    assert install_and_test == "pip install --editable . && python -m pytest"
    subprocess.run(["bash", "-e", "-c", "\n".join(commands)], cwd=tmp_path, check=True, timeout=PATIENCE)
    mine = tmp_path / "greetsvc-mine"
    for path in mine.rglob("*.*"):
        assert path.suffix == ".md" or "template" not in f"{path.name} {path.read_text().lower()}", path
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=mine, check=True, capture_output=True, timeout=PATIENCE)
    wheel = str(next(tmp_path.glob("greetsvc_mine-*.whl")))
    site = str(tmp_path / "site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True, timeout=PATIENCE)
    done = with_examples.run(mine, "python", "-P", "-m", "pytest", "-q", "tests", PYTHONPATH=site)
    assert done.returncode == 0, done.stdout + done.stderr


SENDER = """
import socket, sys
from scapy.contrib.stamp import STAMPSessionReflectorTestUnauthenticated as Answer
from scapy.contrib.stamp import STAMPSessionSenderTestUnauthenticated as Request

with socket.socket(type=socket.SOCK_DGRAM) as sender:
    sender.settimeout(10)
    sender.connect(("127.0.0.1", int(sys.argv[1])))
    sender.send(bytes(Request(seq=7, ts=5, ssid=9)))
    answer = Answer(sender.recv(2000))
    print(answer.seq, answer.seq_sender, answer.ts_sender, answer.ssid, answer.ttl_sender)
    print(answer.ts >= answer.ts_rx > 0)
"""


def test_the_reflector_answers_a_sender_that_others_wrote(with_examples: Installed, tmp_path: Path) -> None:
    """The packets of Scapy, which is no part of the tests' own Python."""
    endpoint = ENDPOINT.replace("tcp", "udp")
    server = with_examples.twistd(tmp_path, "--listen", endpoint, "--protocol", "stamp")
    command = ["/usr/bin/python3", "-c", SENDER, str(server.ports()[0])]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
    server.stop()
    assert said == "7 7 5 9 64\nTrue\n"
