"""Sockets that a service manager passes: found by name and index, and checked at the start."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greetsvc.daemon.inherited import Inherited, Passed, from_manager, stored_name
from greetsvc.daemon.settings.config import settings
from greetsvc.errors import ConfigError
from greetsvc.net.bound import BoundTo
from greetsvc.net.sockets import ipv6_works
from tests.support.activation import Manager
from tests.support.certificates import Papers
from tests.support.process import Program
from tests.support.supervisor import Supervisor
from tests.support.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="no IPv6 here")
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
MARKED = b"GREET/1 0123456789abcdef " + bytes(100)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Callable[..., socket.socket]]:
    """Makes sockets as a service manager does."""
    made: list[socket.socket] = []

    def make(family: int, kind: int, *, listens: bool = True) -> socket.socket:
        sock = socket.socket(family, kind)
        made.append(sock)
        if family == socket.AF_UNIX:
            sock.bind(str(tmp_path / f"socket-{len(made)}"))
        else:
            sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        if listens and kind != DATAGRAM:
            sock.listen()
        return sock

    yield make
    for sock in made:
        sock.close()


def _greeting(sock: socket.socket, tmp_path: Path) -> bytes:
    """What a visitor of this socket is told."""
    with socket.socket(sock.family, sock.type) as peer:
        peer.settimeout(10)
        if sock.type == STREAM:
            peer.connect(sock.getsockname())
            with peer.makefile("rb") as stream:
                return stream.read()
        if sock.family == socket.AF_UNIX:
            peer.bind(str(tmp_path / f"peer-{sock.fileno()}"))
        peer.connect(sock.getsockname())
        peer.send(MARKED)
        return peer.recv(2000)


@pytest.mark.parametrize(
    ("family", "domain", "transport"),
    [
        (socket.AF_INET, "INET", "tcp"),
        pytest.param(socket.AF_INET6, "INET6", "tcp", marks=needs_ipv6),
        (socket.AF_UNIX, "UNIX", "unix"),
    ],
)
def test_a_listening_socket_is_served_and_named_by_its_transport(
    bound: Any, child: Any, family: socket.AddressFamily, domain: str, transport: str, tmp_path: Path
) -> None:
    sock = bound(family, STREAM)
    address = sock.getsockname()
    options = ("--listen", f"systemd:domain={domain}:name=greet", "--greeter", "path")
    server = Manager([sock], ["greet"]).start(child, *options)
    (told,) = server.wait_for("Server start at ")
    assert json.loads(_greeting(sock, tmp_path))["transport"] == transport
    if domain == "UNIX":
        assert told == f"path: {address} (unix)"
    else:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        assert told == f"port: {address[1]} (tcp, {host})"
    assert server.stop() == 0
    assert domain != "UNIX" or Path(address).exists()


def test_without_listen_every_passed_socket_is_served(bound: Any, child: Any, tmp_path: Path) -> None:
    """Stream and datagram sockets, without names."""
    kinds = [(family, kind) for family in (socket.AF_INET, socket.AF_UNIX) for kind in (STREAM, DATAGRAM)]
    sockets = [bound(*each) for each in kinds]
    server = Manager(sockets).start(child, "--greeting", "{transport}")
    server.wait_for("Server start at ", 4)
    assert [_greeting(sock, tmp_path) for sock in sockets] == [b"tcp", b"udp", b"unix", b"unixgram"]
    assert server.stop() == 0
    assert all(Path(sock.getsockname()).exists() for sock in sockets[2:])


def test_sockets_are_found_by_name_and_by_index(bound: Any, child: Any, papers: Papers, tmp_path: Path) -> None:
    """A name may be that of several sockets; TLS and PROXY headers go with inherited sockets too."""
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "localhost.pem").write_bytes(Path(papers.path("good")).read_bytes())
    sockets = [bound(socket.AF_INET, kind) for kind in (STREAM, DATAGRAM, STREAM, STREAM, STREAM)]
    manager = Manager(sockets, ["web", "web", "secure", "behind", "spare"])
    (tmp_path / "settings.toml").write_text(
        f"""
        [[listen]]
        endpoint = "inherited:web"
        greeting = "web {{transport}}"
        [[listen]]
        endpoint = "tls:{folder}:inherited=secure"
        greeting = "secure"
        [[listen]]
        endpoint = "proxy:inherited:3"
        greeting = "for {{peer_host}}"
        """
    )
    server = manager.start(child, "--config", "settings.toml")
    server.wait_for("Server start at ", 4)
    server.wait_for("The service manager passed socket 4 (spare), which no listener uses")
    assert [_greeting(sock, tmp_path) for sock in sockets[:2]] == [b"web tcp", b"web udp"]
    context = ssl.create_default_context(cafile=papers.path("ca"))
    peer = socket.create_connection(sockets[2].getsockname(), 10)
    with context.wrap_socket(peer, server_hostname="localhost") as secured:
        assert secured.recv(100) == b"secure"
    with socket.create_connection(sockets[3].getsockname(), 10) as peer:
        peer.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
        assert peer.recv(100) == b"for 192.0.2.7"
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("kind", "family", "listens", "domain", "says"),
    [
        (DATAGRAM, socket.AF_INET, False, "INET", "SOCK_DGRAM, not SOCK_STREAM"),
        (socket.SOCK_SEQPACKET, socket.AF_UNIX, True, "UNIX", "SOCK_SEQPACKET, not SOCK_STREAM or SOCK_DGRAM"),
        (STREAM, socket.AF_INET, True, "INET6", "AF_INET, not AF_INET6"),
        (STREAM, socket.AF_UNIX, True, "INET", "AF_UNIX, not AF_INET"),
        (STREAM, socket.AF_INET, False, "INET", "a socket that does not listen"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "proxy:"])
def test_another_socket_is_refused_in_one_line(
    bound: Any,
    kind: socket.SocketKind,
    family: socket.AddressFamily,
    listens: bool,
    domain: str,
    says: str,
    prefix: str,
) -> None:
    descriptor = bound(family, kind, listens=listens).fileno()
    endpoint = f"{prefix}systemd:domain={domain}:index=0"
    with pytest.raises(ConfigError) as caught:
        Inherited((Passed(descriptor, "web"),)).resolve(settings({}, [endpoint]).listeners)
    assert str(caught.value) == f"--listen {endpoint}: descriptor {descriptor}, which was passed, is {says}"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: os.pipe()[0], "Socket operation on non-socket"),
        (lambda path: os.open(path, os.O_RDONLY), "Socket operation on non-socket"),
        (lambda _: 987_654, "Bad file descriptor"),
    ],
)
def test_what_is_no_socket_is_refused_in_one_line(make: Callable[[Path], int], says: str, tmp_path: Path) -> None:
    descriptor = make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Inherited((Passed(descriptor),)).resolve(settings({}, ["inherited:0"]).listeners)
    assert str(caught.value) == f"--listen inherited:0: descriptor {descriptor}, which was passed: {says}"


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("inherited:1", "passed no such socket, only 0 (web)"),
        ("inherited:other", "passed no such socket, only 0 (web)"),
        ("systemd:domain=INET:name=other", "passed no such socket, only 0 (web)"),
        ("proxy:inherited:web", "descriptor {}, which was passed, is SOCK_DGRAM, not SOCK_STREAM"),
        ("tls:/nowhere:inherited=web", "descriptor {}, which was passed, is SOCK_DGRAM, not SOCK_STREAM"),
        ("inherited:0 inherited:web", "--listen inherited:web: socket 0 is that of --listen inherited:0 too"),
    ],
)
def test_a_listener_that_no_passed_socket_fits_is_one_line(bound: Any, endpoint: str, says: str) -> None:
    descriptor = bound(socket.AF_INET, DATAGRAM).fileno()
    with pytest.raises(ConfigError) as caught:
        Inherited((Passed(descriptor, "web"),)).resolve(settings({}, endpoint.split()).listeners)
    assert says.format(descriptor) in str(caught.value)
    assert str(caught.value).startswith(f"--listen {endpoint.rpartition(' ')[2]}: ")


def test_a_socket_that_was_not_passed_is_one_line_but_no_fault_in_a_check(child: Any) -> None:
    server = child("--listen", "inherited:web")
    assert server.wait(PATIENCE) == 1
    assert server.said().endswith("greetsvc: --listen inherited:web: the service manager passed no such socket\n")
    assert sys.platform != "linux" or server.said().count("\n") == 1
    server = child("--listen", "inherited:web", "--greeting", "hello", "--check")
    assert server.wait(PATIENCE) == 0
    assert "passed no such socket, which is no fault in a check; it says text:hello" in server.said()


def _environment(**variables: object) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), **{name: str(value) for name, value in variables.items()}}


def test_variables_for_another_process_are_none_of_ours() -> None:
    assert from_manager({"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "3"}) == Inherited()
    assert from_manager(_environment(LISTEN_FDS=0)) == Inherited()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: must be a whole number from 0 to 9999, not 'many'"),
        ({"LISTEN_FDS": "-1"}, "not '-1'"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "must have a name for each of 1 sockets, not 'a:b'"),
        ({"LISTEN_FDS": "9999"}, "LISTEN_FDS: 9999: descriptor"),
    ],
)
def test_variables_without_sense_are_one_line(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_manager(_environment(**variables))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "bound_to",
    [
        BoundTo("tcp", "", 8088),
        BoundTo("udp", "::1", 8088, v6only=True),
        BoundTo("unix", "/run/greet: \udcff,é.sock"),
    ],
)
def test_the_name_of_a_stored_socket_says_what_it_is_bound_to(bound_to: BoundTo) -> None:
    from greetsvc.daemon.inherited import _stored

    name = stored_name(bound_to)
    assert name.isascii()
    assert name.isprintable()
    assert ":" not in name
    assert _stored(name) == bound_to
    assert _stored("web") is None


def test_sockets_in_the_descriptor_store_survive_a_restart(installed: Installed, tmp_path: Path) -> None:
    """What comes while no service runs waits; a socket that is no longer wanted leaves the store."""
    manager = Supervisor(tmp_path)
    variables = installed.environment({"FDSTORE": "64"})
    listen = [f"{kind}:0:interface=127.0.0.1" for kind in ("tcp", "udp")]
    options = [word for endpoint in listen for word in ("--listen", endpoint)]
    server = installed.programs.add(manager.start(installed.command("greetsvc", *options), variables))
    tcp, udp = server.ports(2)
    wait_until(lambda: manager.hear() and len(manager.stored) == 2)
    assert server.stop() == 0
    with (
        socket.create_connection(("127.0.0.1", tcp), PATIENCE) as peer,
        socket.socket(socket.AF_INET, DATAGRAM) as asker,
    ):
        asker.settimeout(PATIENCE)
        asker.connect(("127.0.0.1", udp))
        asker.send(MARKED)
        again = installed.programs.add(manager.start(installed.command("greetsvc", *options), variables))
        assert again.ports(2) == [tcp, udp]
        assert peer.recv(100)
        assert asker.recv(100)
    assert again.stop() == 0
    last = installed.programs.add(manager.start(installed.command("greetsvc", *options[:2]), variables))
    assert last.ports() == [tcp]
    wait_until(lambda: manager.hear() and len(manager.stored) == 1)
    assert last.stop() == 0
    manager.close()


HERE, EVERYWHERE = "tcp:{}:interface=127.0.0.1", "tcp:{}"
UDP_HERE, UDP_EVERYWHERE = "udp:{}:interface=127.0.0.1", "udp:{}"
SIX, ADMIN = r"tcp:{}:interface=\:\:", "--admin=tcp:{}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([HERE], [EVERYWHERE]),
        ([EVERYWHERE], [HERE]),
        ([UDP_HERE], [UDP_EVERYWHERE]),
        ([UDP_EVERYWHERE], [UDP_HERE]),
        ([SIX], [EVERYWHERE, SIX]),
        ([EVERYWHERE, SIX], [SIX]),
        ([ADMIN], [f"{ADMIN}:interface=0.0.0.0"]),
        ([ADMIN, UDP_HERE], [EVERYWHERE]),
        ([HERE, "--workers=2", UDP_HERE], [EVERYWHERE, UDP_EVERYWHERE]),
    ],
)
def test_a_stored_socket_does_not_keep_the_next_service_from_another_address(
    installed: Installed, tmp_path: Path, free_port: int, before: list[str], after: list[str]
) -> None:
    manager = Supervisor(tmp_path)
    variables = installed.environment({"FDSTORE": "64"})

    def started(endpoints: list[str]) -> Program:
        options = [one if one.startswith("-") else f"--listen={one}" for one in endpoints]
        filled = [option.format(free_port) for option in ("--listen=tcp:0:interface=127.0.0.1", *options)]
        return installed.programs.add(manager.start(installed.command("greetsvc", *filled), variables))

    server = started(before)
    manager.wait_for("READY=1")
    while manager.hear(0.2):
        pass
    assert len(manager.stored) > 1
    assert server.stop() == 0
    again = started(after)
    manager.wait_for("READY=1")
    while manager.hear(0.2):
        pass
    assert again.stop() == 0
    assert again.ports()[0] == server.ports()[0], "what stayed lost its socket"
    ports = [int(name.split(",")[2]) for name in manager.stored]
    assert ports.count(free_port) == len([one for one in after if "--workers" not in one])
    manager.close()


def test_a_socket_of_the_service_itself_is_named_where_it_is_in_the_way(
    installed: Installed, tmp_path: Path, free_port: int
) -> None:
    """A reload and an upgrade cannot give up what is served, before they know that all the rest is right."""
    file = tmp_path / "greetsvc.toml"
    file.write_text(f'listen = ["{HERE.format(free_port)}"]')
    server = installed.start(tmp_path, "greetsvc", "--config", str(file), fresh=True)
    assert server.ports() == [free_port]
    file.write_text(f'listen = ["{EVERYWHERE.format(free_port)}"]')
    why = "Address already in use, by this service itself: only a restart can replace that socket by another"
    server.send_signal(signal.SIGHUP)
    assert server.wait_for("The settings were not reloaded, and the old ones stay")[0].endswith(why)
    server.send_signal(signal.SIGUSR2)
    assert server.wait_for("No upgrade, this process goes on")[0].endswith(why)
    file.write_text(f'listen = ["{EVERYWHERE.format(free_port)}", "{HERE.format(free_port)}"]')
    server.send_signal(signal.SIGHUP)
    told = server.wait_for("The settings were not reloaded, and the old ones stay", 2)[1]
    assert told.endswith(f"Address already in use, by {file}: listen 2"), "these two can never be bound at once"
    with socket.create_connection(("127.0.0.1", free_port), PATIENCE) as peer:
        assert peer.recv(100)
    assert server.stop() == 0


def test_the_manager_follows_an_upgrade(installed: Installed, tmp_path: Path) -> None:
    """It hears of the new process from the old one, which never says that it stops."""
    manager = Supervisor(tmp_path)
    command = installed.command("greetsvc", "--listen", "tcp:0:interface=127.0.0.1")
    server = installed.programs.add(manager.start(command, installed.environment({"FDSTORE": "64"})))
    manager.wait_for("READY=1")
    server.send_signal(signal.SIGUSR2)
    named = manager.wait_for("MAINPID")
    ready = manager.wait_for("READY=1")
    assert ready["MAINPID"] == named["MAINPID"] != str(server.pid)
    assert server.wait() == 0
    installed.programs.add(Program(int(ready["MAINPID"]), server.log)).stop()
    manager.wait_for("STOPPING=1")
    assert sum("STOPPING" in message for message in manager.messages) == 1
    assert list(manager.stored) == ["greetsvc-bound,tcp,0,0,127.0.0.1"]
    manager.close()
