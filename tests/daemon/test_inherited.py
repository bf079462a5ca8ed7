"""Sockets that a service manager passes: what they are is checked at the start."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from greetsvc.net.sockets import ipv6_works
from tests.support.waiting import PATIENCE

needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="no IPv6 here")

# What the service manager does between fork and exec (sd_listen_fds(3)).
PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="greet")
os.execv(sys.executable, [sys.executable, "-m", "greetsvc", *sys.argv[2:]])
"""


@pytest.fixture
def passed(child: Any) -> Any:
    """Starts the service with a socket that is passed to it."""

    def start(sock: socket.socket, *options: str) -> Any:
        return child(str(sock.fileno()), *options, command=("-c", PASS), pass_fds=(sock.fileno(),))

    return start


def _read(family: int, address: Any) -> bytes:
    with socket.socket(family) as peer:
        peer.settimeout(10)
        peer.connect(address)
        with peer.makefile("rb") as stream:
            return stream.read()


@pytest.mark.parametrize(
    ("family", "domain", "transport"),
    [
        (socket.AF_INET, "INET", "tcp"),
        pytest.param(socket.AF_INET6, "INET6", "tcp", marks=needs_ipv6),
        (socket.AF_UNIX, "UNIX", "unix"),
    ],
)
@pytest.mark.parametrize("which", ["index=0", "name=greet"])
def test_a_listening_socket_is_served_and_named_by_its_transport(
    passed: Any, family: socket.AddressFamily, domain: str, transport: str, which: str, tmp_path: Path
) -> None:
    with socket.socket(family) as sock:
        sock.bind(str(tmp_path / "x") if domain == "UNIX" else ("127.0.0.1" if domain == "INET" else "::1", 0))
        sock.listen()
        address = sock.getsockname()
        greeting = "{transport}" if which == "index=0" else ""
        options = ("--greeting", greeting) if greeting else ("--greeter", "path")
        server = passed(sock, "--listen", f"systemd:domain={domain}:{which}", *options)
        (told,) = server.wait_for("Server start at ")
    said = _read(family, address)
    assert (said.decode() if greeting else json.loads(said)["transport"]) == transport
    if domain == "UNIX":
        assert told == f"path: {address} (unix)"
    else:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        assert told == f"port: {address[1]} (tcp, {host})"
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("kind", "family", "listens", "domain", "says"),
    [
        (socket.SOCK_DGRAM, socket.AF_INET, False, "INET", "SOCK_DGRAM, not SOCK_STREAM"),
        (socket.SOCK_DGRAM, socket.AF_UNIX, False, "UNIX", "SOCK_DGRAM, not SOCK_STREAM"),
        (socket.SOCK_SEQPACKET, socket.AF_UNIX, True, "UNIX", "SOCK_SEQPACKET, not SOCK_STREAM"),
        (socket.SOCK_STREAM, socket.AF_INET, True, "INET6", "AF_INET, not AF_INET6"),
        (socket.SOCK_STREAM, socket.AF_INET, True, "UNIX", "AF_INET, not AF_UNIX"),
        (socket.SOCK_STREAM, socket.AF_UNIX, True, "INET", "AF_UNIX, not AF_INET"),
        (socket.SOCK_STREAM, socket.AF_INET, False, "INET", "a socket that does not listen"),
        (socket.SOCK_STREAM, socket.AF_UNIX, False, "UNIX", "a socket that does not listen"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "proxy:"])
def test_another_socket_is_refused_in_one_line(
    passed: Any,
    kind: socket.SocketKind,
    family: socket.AddressFamily,
    listens: bool,
    domain: str,
    says: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    with socket.socket(family, kind) as sock:
        sock.bind(str(tmp_path / "x") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if listens:
            sock.listen()
        endpoint = f"{prefix}systemd:domain={domain}:index=0"
        server = passed(sock, "--listen", endpoint)
        assert server.wait(PATIENCE) == 1
    assert server.said() == f"greetsvc: --listen {endpoint}: descriptor 3, which was passed, is {says}\n"


@pytest.mark.parametrize("which", ["index=1", "name=other"])
def test_a_socket_that_was_not_passed_is_one_line(passed: Any, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = passed(sock, "--listen", f"systemd:domain=INET:{which}")
        assert server.wait(PATIENCE) == 1
    assert server.said().endswith(f"{which}: the service manager passed no such socket\n")
    assert sys.platform != "linux" or server.said().count("\n") == 1
