"""``twistd greetsvc``, in the foreground and daemonized, from an installed wheel in another folder."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from tests.support.certificates import issue

if TYPE_CHECKING:
    from tests.support.installed import Installed

GREETING = b"Thank you for connecting\r\n"
LOOPBACK = "interface=127.0.0.1"
SECONDS = 10.0


def read(address: tuple[str, int] | str) -> bytes:
    """What a client that sends nothing reads until the end."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as peer:
        peer.settimeout(SECONDS)
        peer.connect(address)
        with peer.makefile("rb") as stream:
            return stream.read()


def ask(address: tuple[str, int] | str, own: str = "") -> bytes:
    """The answer to a datagram; ``own`` is the path of the client's UNIX socket."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.settimeout(SECONDS)
        if own:
            peer.bind(own)
        peer.sendto(b"x", address)
        return peer.recv(2048)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def may_be_bound(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_the_installed_wheel_is_tested(installed: Installed, tmp_path: Path) -> None:
    program = "import greetsvc, twisted; print(greetsvc.__file__); print(twisted.__file__)"
    ours, theirs = installed.run(tmp_path, "python", "-c", program).stdout.split()
    assert Path(ours).is_relative_to(installed.bin.parent)
    assert not Path(theirs).is_relative_to(installed.bin.parent)


@pytest.mark.parametrize("script", ["twistd", "twist"])
def test_the_plugin_is_listed_from_any_folder(installed: Installed, tmp_path: Path, script: str) -> None:
    done = installed.run(tmp_path, script, "--help", fresh=True)
    assert any(line.split()[:1] == ["greetsvc"] for line in done.stdout.splitlines())


def test_in_the_foreground_tcp_and_udp_are_greeted_and_sigterm_stops(installed: Installed, tmp_path: Path) -> None:
    listen = ("--listen", f"tcp:0:{LOOPBACK}", "--listen", f"udp:0:{LOOPBACK}")
    server = installed.twistd(tmp_path, *listen, fresh=True)
    tcp, udp = server.ports(2)
    assert read(("127.0.0.1", tcp)) == GREETING
    assert ask(("127.0.0.1", udp)) == GREETING
    assert len(server.wait_for("Got a connection from ('127.0.0.1', ", 2)) == 2
    assert server.stop() == -signal.SIGTERM
    assert "Server Shut Down" in server.said()
    assert "Traceback" not in server.said()
    assert files(tmp_path) == {server.log.name}


def test_daemonized_it_greets_and_sigterm_leaves_only_the_log(installed: Installed, tmp_path: Path) -> None:
    server = installed.daemon(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", fresh=True)
    (port,) = server.ports()
    assert read(("127.0.0.1", port)) == GREETING
    server.stop()
    assert "Server Shut Down" in server.said()
    assert "Traceback" not in server.said()
    assert files(tmp_path) == {"log"}
    assert may_be_bound(port)


def test_unix_sockets_have_the_mode_asked_for_and_are_removed_on_stop(installed: Installed, tmp_path: Path) -> None:
    stream, datagram = tmp_path / "greet", tmp_path / "greet-dgram"
    server = installed.daemon(tmp_path, "--listen", f"unix:{stream}:mode=660", "--listen", f"unixgram:{datagram}")
    server.wait_for("Server start at path: ", 2)
    assert stat.S_IMODE(stream.stat().st_mode) == 0o660
    assert read(str(stream)) == GREETING
    assert ask(str(datagram), own=str(tmp_path / "own")) == GREETING
    server.stop()
    assert files(tmp_path) == {"log", "own"}


def test_a_unix_path_in_use_is_refused_and_its_owner_goes_on(installed: Installed, tmp_path: Path) -> None:
    path = tmp_path / "greet"
    server = installed.twistd(tmp_path, "--listen", f"unix:{path}")
    second = installed.run(tmp_path, "twistd", "-n", "--pidfile=", "greetsvc", "--listen", f"unix:{path}")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"greetsvc: --listen unix:{path}: cannot listen on {path}: Address already in use\n"
    assert read(str(path)) == GREETING
    server.stop()
    assert not path.exists()


def test_a_unix_socket_left_by_a_killed_server_is_taken_over(installed: Installed, tmp_path: Path) -> None:
    paths = [tmp_path / "greet", tmp_path / "greet-dgram"]
    options = ("--listen", f"unix:{paths[0]}", "--listen", f"unixgram:{paths[1]}")
    installed.twistd(tmp_path, *options).stop(signal.SIGKILL)
    assert all(path.exists() for path in paths)
    server = installed.twistd(tmp_path, *options)
    assert read(str(paths[0])) == GREETING
    assert ask(str(paths[1]), own=str(tmp_path / "own")) == GREETING
    server.stop()
    assert not any(path.exists() for path in paths)


def test_check_prints_what_would_run_and_leaves_nothing(installed: Installed, tmp_path: Path) -> None:
    path = tmp_path / "greet"
    options = ("--check", "--listen", f"tcp:0:{LOOPBACK}", "--listen", f"unix:{path}")
    done = installed.run(tmp_path, "twistd", f"--pidfile={tmp_path / 'pid'}", "greetsvc", *options)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert second == rf"unix path: {path} says text:Thank you for connecting\r\n"
    assert first.startswith("tcp port: ")
    assert may_be_bound(int(first.split()[2]))
    assert files(tmp_path) == set()


def test_check_reports_a_wrong_setting(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(
        tmp_path, "twistd", "greetsvc", "--check", "--listen", f"tcp:0:{LOOPBACK}", "--deadline", "0"
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "command",
    [("twistd", "-n", "--pidfile=pid"), ("twistd", "--pidfile=pid", "-l", "log"), ("twist",)],
    ids=["foreground", "daemonized", "twist"],
)
def test_a_busy_port_is_one_line_and_nothing_stays_bound(
    installed: Installed, tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = tmp_path / "greet"
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        taken = f"tcp:{port}:{LOOPBACK}"
        done = installed.run(tmp_path, *command, "greetsvc", "--listen", f"unix:{path}", "--listen", taken)
    line = f"greetsvc: --listen {taken}: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert files(tmp_path) == set()


def test_twist_serves_and_a_wrong_option_is_status_1(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "twist", "--log-format", "text", "greetsvc", "--listen", f"tcp:0:{LOOPBACK}")
    assert read(("127.0.0.1", server.ports()[0])) == GREETING
    assert server.stop() == -signal.SIGTERM
    wrong = installed.run(tmp_path, "twist", "greetsvc", "--nonesuch")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_greetsvc_exits_0_on_sigterm_and_sigint(
    installed: Installed, tmp_path: Path, number: signal.Signals
) -> None:
    listen = ("--listen", f"tcp:0:{LOOPBACK}")
    server = installed.start(tmp_path, "greetsvc", *listen, "--greeting", "hello", fresh=True)
    assert read(("127.0.0.1", server.ports()[0])) == b"hello"
    assert server.stop(number) == 0
    assert files(tmp_path) == {server.log.name}


def test_the_module_runs_as_the_command(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "python", "-m", "greetsvc", "--nonesuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "greetsvc: option --nonesuch not recognized\n"


def test_a_stop_waits_for_an_open_connection(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "greetsvc", "--listen", f"tcp:0:{LOOPBACK}", "--linger", "60")
    (port,) = server.ports()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer, peer.makefile("rb") as stream:
        assert stream.read() == GREETING
        os.kill(server.pid, signal.SIGTERM)
        server.wait_for("Stopping: 1 open connection")
        assert server.alive()
    assert server.process is not None
    assert server.process.wait(SECONDS) == 0


def _low_port() -> int:
    return next(port for port in range(1023, 512, -1) if may_be_bound(port))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a port below 1024 is bound, then root given up")
def test_a_port_below_1024_is_served_by_an_unprivileged_user(installed: Installed, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    port = _low_port()
    user = ("-u", str(nobody.pw_uid), "-g", str(nobody.pw_gid))
    listen = ("--listen", f"tcp:{port}:{LOOPBACK}")
    server = installed.start(tmp_path, "twistd", "-n", "--pidfile=", *user, "greetsvc", *listen)
    assert server.ports() == [port]
    status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    (uids,) = (line.split()[1:] for line in status if line.startswith("Uid:"))
    assert set(uids) == {str(nobody.pw_uid)}
    assert read(("127.0.0.1", port)) == GREETING
    assert server.stop() == -signal.SIGTERM
    assert "Traceback" not in server.said()


def test_a_log_in_json_has_one_object_a_line(installed: Installed, tmp_path: Path) -> None:
    server = installed.daemon(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", "--log-format", "json")
    (port,) = server.ports()
    assert read(("127.0.0.1", port)) == GREETING
    server.wait_for("Got a connection from")
    server.stop()
    events = [json.loads(line) for line in server.said().splitlines()]
    (start,) = [event for event in events if event["message"] == f"Server start at port: {port} (tcp, 127.0.0.1)"]
    assert {name: start[name] for name in ("port", "address", "transport")} == {
        "port": port,
        "address": "127.0.0.1",
        "transport": "tcp",
    }
    (visit,) = [event for event in events if "peer" in event]
    assert visit["peer"][0] == "127.0.0.1"
    assert visit["transport"] == "tcp"
    assert all(one["time"] <= other["time"] for one, other in pairwise(events))


def test_log_visits_summary_sums_up_and_off_logs_nothing(installed: Installed, tmp_path: Path) -> None:
    for what, expected in (("summary", ["Got 3 connections in a second: tcp 3"]), ("off", [])):
        server = installed.twistd(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", "--log-visits", what)
        for _ in range(3):
            assert read(("127.0.0.1", server.ports()[0])) == GREETING
        server.stop()
        said = [line.partition("] ")[2] for line in server.said().splitlines()]
        assert [line for line in said if line.startswith("Got ")] == expected


def test_settings_come_from_toml_and_the_command_line_wins(installed: Installed, tmp_path: Path) -> None:
    config = tmp_path / "greetsvc.toml"
    config.write_text(
        f"""
        greeting = "from the file"
        log-visits = "off"
        [[listen]]
        endpoint = "tcp:0:{LOOPBACK}"
        greeting = "from the table"
        [[listen]]
        endpoint = "tcp:0:{LOOPBACK}"
        """
    )
    server = installed.twistd(tmp_path, "--config", str(config))
    assert [read(("127.0.0.1", port)) for port in server.ports(2)] == [b"from the table", b"from the file"]
    server.stop()
    server = installed.twistd(tmp_path, "--config", "greetsvc.toml", "--greeting", "told")
    assert [read(("127.0.0.1", port)) for port in server.ports(2)] == [b"told", b"told"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_sigusr1_rotates_the_log(installed: Installed, tmp_path: Path, form: str) -> None:
    server = installed.daemon(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", "--log-format", form)
    (port,) = server.ports()
    os.kill(server.pid, signal.SIGUSR1)
    old = evolve(server, log=tmp_path / "log.1")
    old.wait_for("Server start at port: ")
    assert read(("127.0.0.1", port)) == GREETING
    server.wait_for("Got a connection from")
    assert "Got a connection" not in old.said()


def test_json_says_where_the_service_and_its_admin_site_are(installed: Installed, tmp_path: Path) -> None:
    options = ("--listen", f"tcp:0:{LOOPBACK}", "--log-format", "json")
    server = installed.daemon(tmp_path, *options, "--admin", "tcp:0")
    (port,), (admin,) = server.ports(), (int(rest.split()[0]) for rest in server.wait_for("Admin site at port: "))
    server.stop()
    where = [
        (event["message"].partition(" at ")[0], event["transport"], event["address"], event["port"])
        for event in map(json.loads, server.said().splitlines())
        if " at port: " in event["message"]
    ]
    numbers = {"Server start": port, "Admin site": admin}
    assert sorted(where) == sorted((what, "tcp", "127.0.0.1", number) for what, number in numbers.items())


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_refusal_has_its_peer_reason_and_transport_as_text_and_in_json(
    installed: Installed, tmp_path: Path, form: str
) -> None:
    options = ("--listen", f"proxy:tcp:0:{LOOPBACK}", "--trust-proxy", "192.0.2.0/24", "--log-format", form)
    server = installed.daemon(tmp_path, *options)
    (port,) = server.ports()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer:
        host, number = peer.getsockname()
        server.wait_for(f"Refused ('{host}', {number}): proxy-untrusted (proxy:tcp)")
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as peer:
            assert peer.recv(1) == b""
    server.stop()
    if form == "json":
        events = [json.loads(line) for line in server.said().splitlines()]
        first, *_others = [event for event in events if "reason" in event]
        assert {name: first[name] for name in ("peer", "reason", "transport")} == {
            "peer": [host, number],
            "reason": "proxy-untrusted",
            "transport": "proxy:tcp",
        }
        summed = [event for event in events if "reasons" in event]
        named = sum("reason" in event for event in events)
        assert named + sum(event["reasons"]["proxy-untrusted"] for event in summed) == 9


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (["greetsvc", "--help"], "Usage: greetsvc [options]"),
        (["greetsvc", "-h"], "Usage: greetsvc [options]"),
        (["twistd", "greetsvc", "--help"], "Usage: twistd [options] greetsvc [options]"),
    ],
)
def test_the_help_says_how_the_command_that_was_given_is_used(
    installed: Installed, tmp_path: Path, command: list[str], usage: str
) -> None:
    assert installed.run(tmp_path, *command).stdout.splitlines()[0] == usage


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        ("proxy:tcp", b"GET / HTTP/1.1\r\n\r\n", "proxy-header"),
        ("tls", b"GET / HTTP/1.1\r\n\r\n", "tls-handshake"),
        ("tls", b"\x16\x03\x01\xff\xff\x01\x00\xff\xff", "tls-hello-size"),
    ],
    ids=["no PROXY header", "no TLS", "a long ClientHello"],
)
def test_who_was_refused_and_why_is_in_the_log(
    installed: Installed, tmp_path: Path, form: str, kind: str, said: bytes, reason: str
) -> None:
    (tmp_path / "server.pem").write_bytes(issue("localhost").both_pem)
    listen = f"proxy:tcp:0:{LOOPBACK}" if kind == "proxy:tcp" else f"tls:{tmp_path}:port=0:{LOOPBACK}"
    server = installed.daemon(tmp_path, "--listen", listen, "--log-format", form)
    (port,) = server.ports()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as peer:
        host, number = peer.getsockname()
        peer.sendall(said)
        server.wait_for(f"Refused ('{host}', {number}): {reason} ({kind})")
    server.stop()
    if form == "json":
        events = [json.loads(line) for line in server.said().splitlines()]
        (event,) = [event for event in events if "reason" in event]
        assert (event["peer"], event["reason"], event["transport"]) == ([host, number], reason, kind)
