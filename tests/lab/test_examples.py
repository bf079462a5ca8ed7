"""Each example is built, installed beside greetsvc in a clean environment, tested there, and talked to."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

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
