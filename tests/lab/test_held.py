"""Ten thousand connections are held open: other visitors are greeted, and the deadline ends all of them."""

from __future__ import annotations

import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import issue

pytestmark = pytest.mark.alone

HELD = 10_000
DEADLINE = 10
CONFIG = """
max-per-source = 800
deadline = {deadline}
log-visits = "off"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "{attacked}"
greeter = "{greeter}"
"""


@pytest.fixture
def files() -> Iterator[None]:
    """As many open files as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def kernel_memory() -> int:
    """Bytes in the buffers of all TCP sockets of this machine."""
    line = next(each for each in Path("/proc/net/sockstat").read_text().splitlines() if each.startswith("TCP:"))
    return int(line.rpartition(" ")[2]) * resource.getpagesize()


def hold(visitor: Any, port: int) -> list[socket.socket]:
    """Connections from fifty prefixes, each of which keeps to what a source may have.

    That is four times as much as each needs: two that share an entry of the table would be refused with less.
    """
    return [
        visitor.connect(port, source=f"127.{60 + number % 50}.1.{number // 50 + 1}", window=2048)
        for number in range(HELD)
    ]


def trickle(held: list[socket.socket], until: threading.Event) -> None:
    """A byte a second on each."""
    while not until.wait(1):
        for sock in held:
            try:
                sock.send(b"x", socket.MSG_DONTWAIT)
            except OSError:
                continue


@pytest.mark.parametrize("kind", ["send nothing", "read nothing", "a byte a second"])
@pytest.mark.usefixtures("files")
def test_visitors_are_greeted_while_ten_thousand_connections_are_held(
    child: Callable[..., Any], visitor: Any, honest: Any, tmp_path: Path, kind: str
) -> None:
    """Silence holds a TLS connection, an unread greeting a plain one, and bytes that keep coming a lingering one."""
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "server.pem").write_bytes(issue("server.example").both_pem)
    (tmp_path / "megabyte").write_bytes(b"x" * 1_000_000)
    attacked = r"tls:tls:port=0:interface=\\:\\:ffff\\:127.0.0.1" if kind == "send nothing" else "tcp:0"
    greeter = "file:megabyte" if kind == "read nothing" else "text:hello"
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(deadline=DEADLINE, attacked=attacked, greeter=greeter))
    server = child("--config", str(config))
    plain, port = server.ports(2)
    assert honest(plain, 0.5).missed == 0
    idle, before, kernel = server.descriptors(), server.rss(), kernel_memory()

    begun = time.monotonic()
    stop = threading.Event()
    held = hold(visitor, port)
    connected = time.monotonic() - begun
    thread = threading.Thread(target=trickle, args=(held, stop))
    if kind == "a byte a second":
        thread.start()
    try:
        greeted = honest(plain, 3)
        most, after, buffers = server.descriptors() - idle, server.rss(), kernel_memory()
        spent, since = server.cpu(), time.monotonic()
        # Until after the deadline, when all of them are ended in a short time.
        rest = honest(plain, max(2.0, begun + connected + DEADLINE - since + 0.5))
        load = (server.cpu() - spent) / (time.monotonic() - since)
        while server.descriptors() > idle + 2:
            assert time.monotonic() < begun + connected + DEADLINE + 5, f"{server.descriptors()} descriptors"
            time.sleep(0.1)
        gone = time.monotonic() - begun - connected
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
    sys.stdout.write(
        f"{kind}: {most} held (connected in {connected:.1f} s), {(after - before) / most:.0f} bytes of the service"
        f" and {(buffers - kernel) / most:.0f} of the kernel each; honest: {greeted}, then {rest};"
        f" load {load:.2f} of a core; all gone {gone:.1f} s after the last came\n"
    )
    assert most >= HELD * 0.99
    assert greeted.missed == rest.missed == 0
    assert rest.p(0.99) < 0.1
    assert honest(plain, 0.5).missed == 0
    assert server.stop() == 0
