"""SIGHUP: the service uses the settings that its file has now, or says why not and keeps the old ones whole."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from attrs import define, evolve
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from greetsvc.daemon import certificates
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.reload import differences, reloadable
from greetsvc.daemon.settings.table import SETTINGS, Settings
from greetsvc.wire import MARK
from tests.support.certificates import issue
from tests.support.service import Visitor, ask
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.installed import Installed

TCP, UDP = "tcp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1"


@define
class Reloading:
    """A service in this process, whose settings the test changes."""

    service: GreetingService

    def reload(self, *listen: str, **options: object) -> bool:
        """Reload with these settings; whether it could."""

        def reread() -> Any:
            return settings(_named(options), listen)

        self.service.reread = reread
        self.service.reload()
        return self.service.last_reload_ok

    def port(self, which: int = 0) -> int:
        """The port of a listener."""
        return self.service._listening[which].spots()[0].port

    @property
    def descriptors(self) -> set[tuple[int, int]]:
        """The sockets of the listeners, whatever descriptors they have."""
        assert self.service._generation is not None
        found = [os.fstat(sock.fileno()) for _, sock in self.service._generation.bound]
        return {(one.st_dev, one.st_ino) for one in found}


def _named(options: dict[str, object]) -> dict[str, object]:
    return {"drain": 0, "log-visits": "off"} | {name.replace("_", "-"): value for name, value in options.items()}


@pytest.fixture
def start() -> Iterator[Callable[..., Reloading]]:
    """Starts services, which are stopped at the end."""
    started: list[GreetingService] = []

    def make(*listen: str, **options: object) -> Reloading:
        service = GreetingService(settings(_named(options), listen))
        service.bind()
        service.startService()
        started.append(service)
        return Reloading(service)

    yield make
    for service in started:
        pytest_twisted.blockon(service.stopService())


async def _thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await deferToThread(call, *arguments).addTimeout(10, reactor)


@pytest_twisted.ensureDeferred
async def test_an_unchanged_listener_keeps_its_socket_and_its_queue_and_greets_anew(
    start: Callable[..., Reloading], visitor: Visitor
) -> None:
    ours = start(TCP, UDP, greeting="old\r\n")
    ports, sockets = (ours.port(0), ours.port(1)), ours.descriptors
    queued = visitor.connect(ports[0])
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        asker.connect(("127.0.0.1", ports[1]))
        asker.send(MARK + bytes(200))
        assert ours.reload(TCP, UDP, greeting="new\r\n")
        assert (ours.port(0), ours.port(1)) == ports
        assert ours.descriptors == sockets
        assert await _thread(visitor.read, queued) == b"new\r\n"
        assert await _thread(asker.recv, 100) == b"new\r\n"
    assert await _thread(visitor.visit, ports[0]) == b"new\r\n"
    assert await _thread(ask, "127.0.0.1", ports[1]) == b"new\r\n"


@pytest_twisted.ensureDeferred
async def test_a_removed_listener_greets_its_queue_and_a_new_one_is_announced(
    start: Callable[..., Reloading], visitor: Visitor, log_lines: list[str], tmp_path: Path
) -> None:
    ours = start(TCP, f"unix:{tmp_path}/old", greeting="hello")
    port = ours.port(0)
    queued = visitor.connect(port)
    assert ours.reload(f"unix:{tmp_path}/old", f"unix:{tmp_path}/new", UDP, greeting="hello")
    assert await _thread(visitor.read, queued) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        visitor.connect(port)
    assert (tmp_path / "old").is_socket()
    assert (tmp_path / "new").is_socket()
    told = log_lines[-3:]
    assert told[0].startswith(f"The settings were reloaded (added: unix:{tmp_path}/new, udp:0")
    assert told[1] == f"Server start at path: {tmp_path}/new (unix)"
    assert told[2].startswith("Server start at port: ")
    assert ours.service.policy.own_ports == {ours.port(2)}


@pytest_twisted.ensureDeferred
async def test_open_connections_go_on_as_they_began(start: Callable[..., Reloading], visitor: Visitor) -> None:
    ours = start(f"proxy:{TCP}", TCP, greeting="old")
    waits = visitor.connect(ours.port(0))
    await until(lambda: ours.service.admission.open == 1)
    assert ours.reload(UDP, greeting="new")
    assert ours.service._retired
    assert ours.service.admission.open == 1
    waits.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
    assert await _thread(visitor.read, waits) == b"old"
    await until(lambda: ours.service.admission.open == 0)
    assert ours.reload(UDP, greeting="new")
    assert not ours.service._retired


@pytest.mark.parametrize(
    ("listen", "options", "says"),
    [
        ((TCP, "tcp:{taken}:interface=127.0.0.1"), {}, "cannot listen on 127.0.0.1, port {taken}"),
        ((TCP, "tls:/no/such:port=0"), {}, "/no/such"),
        ((TCP,), {"deadline": "soon"}, "deadline"),
        ((TCP,), {"greeter": "file:/no/such"}, "/no/such"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_used_is_one_line_and_changes_nothing(
    start: Callable[..., Reloading],
    visitor: Visitor,
    log_lines: list[str],
    tmp_path: Path,
    listen: tuple[str, ...],
    options: dict[str, object],
    says: str,
) -> None:
    path = f"unix:{tmp_path}/x"
    ours = start(TCP, path, UDP, greeting="old", max_connections=5)
    sockets, before = ours.descriptors, ours.service.settings
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        places = [one.format(taken=taken) for one in listen]
        assert not ours.reload(path, *places, **({} if "greeter" in options else {"greeting": "new"}), **options)
    (line,) = [line for line in log_lines if "not reloaded" in line]
    assert line.startswith("The settings were not reloaded, and the old ones stay: ")
    assert says.format(taken=taken) in line
    assert (ours.service.reloads, ours.descriptors, ours.service.settings) == (1, sockets, before)
    assert (tmp_path / "x").is_socket()
    assert await _thread(visitor.visit, ours.port(0)) == b"old"
    assert await _thread(ask, "127.0.0.1", ours.port(2)) == b"old"
    assert ours.reload(TCP, greeting="new")


@pytest_twisted.ensureDeferred
async def test_limits_and_deadlines_are_those_of_the_new_settings(
    start: Callable[..., Reloading], visitor: Visitor
) -> None:
    ours = start(f"proxy:{TCP}", max_connections=1)
    held = visitor.connect(ours.port())
    await until(lambda: ours.service.admission.open == 1)
    assert await _thread(visitor.visit, ours.port()) == b""
    assert ours.reload(f"proxy:{TCP}", max_connections=2)
    visitor.connect(ours.port())
    await until(lambda: ours.service.admission.open == 2)
    held.close()
    assert ours.reload(TCP, deadline=0.05, linger=0.05, greeting="x")
    assert await _thread(visitor.visit, ours.port()) == b"x"
    stays = visitor.connect(ours.port())
    await until(lambda: ours.service.ledger.visits == 2)
    await until(lambda: ours.service.admission.open == 1)  # the one without a header
    stays.close()


@pytest_twisted.ensureDeferred
async def test_a_proxy_is_trusted_by_the_new_settings_on_the_same_socket(
    start: Callable[..., Reloading], visitor: Visitor
) -> None:
    ours = start(TCP, greeting="{peer_host}")
    sockets = ours.descriptors
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    assert ours.reload(f"proxy:{TCP}", greeting="{peer_host}")
    assert ours.descriptors == sockets
    assert await _thread(visitor.visit, ours.port(), "127.0.0.1", "", header) == b"192.0.2.1"
    assert ours.reload(f"proxy:{TCP}", greeting="{peer_host}", trust_proxy=["192.0.2.0/24"])
    assert await _thread(visitor.visit, ours.port()) == b""
    assert ours.service.ledger.refused["proxy-untrusted"] == 1


@pytest_twisted.ensureDeferred
async def test_certificates_stay_and_a_new_client_ca_counts(start: Callable[..., Reloading], tmp_path: Path) -> None:
    authority = issue("authority", authority=True)
    (tmp_path / "localhost.pem").write_bytes(authority.issue("localhost").both_pem)
    (tmp_path / "ca").write_bytes(authority.pem)
    listen = f"tls:{tmp_path}:port=0:interface=127.0.0.1"
    ours = start(listen)
    one: Any = ours.service._listening[0]
    assert ours.reload(listen, greeting="x")
    two: Any = ours.service._listening[0]
    assert two.contexts is one.contexts
    assert ours.reload(listen, client_ca=str(tmp_path / "ca"))
    three: Any = ours.service._listening[0]
    assert three.contexts is not one.contexts
    assert len([call for call in reactor.getDelayedCalls() if "ReloadingContexts._poll" in str(call)]) == 1


@pytest_twisted.ensureDeferred
async def test_the_mode_of_a_unix_socket_and_the_log_follow(
    start: Callable[..., Reloading], tmp_path: Path, log_lines: list[str], visitor: Visitor
) -> None:
    path = tmp_path / "x"
    ours = start(f"unix:{path}:mode=600", f"unixgram:{path}g:mode=600", TCP, log_visits="off")
    assert ours.reload(f"unix:{path}:mode=660", f"unixgram:{path}g:mode=660", TCP, log_visits="all")
    assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o660}
    await _thread(visitor.visit, ours.port(2))
    assert "Got a connection from" in log_lines[-1]
    assert ours.reload(TCP, log_visits="off")
    lines = len(log_lines)
    assert not list(tmp_path.iterdir())
    await _thread(visitor.visit, ours.port())
    assert len(log_lines) == lines


@pytest_twisted.ensureDeferred
async def test_a_new_udp_budget_counts_at_once(start: Callable[..., Reloading]) -> None:
    ours = start(UDP, udp_budget=0)
    refused = ours.service.ledger.refused
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.sendto(b"x", ("127.0.0.1", ours.port()))
        await until(lambda: refused["budget"] == 1)
    assert ours.reload(UDP, udp_budget=1000, greeting="x")
    assert await _thread(ask, "127.0.0.1", ours.port()) == b"x"


def _open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest_twisted.ensureDeferred
async def test_many_reloads_leave_no_descriptor_and_no_timer(start: Callable[..., Reloading]) -> None:
    ours = start(TCP, UDP)
    await deferLater(reactor, 0, lambda: None)
    files, timers, readers = _open_files(), len(reactor.getDelayedCalls()), len(reactor.getReaders())
    for number in range(20):
        assert ours.reload(TCP, UDP, greeting=f"{number}") is True
        assert ours.reload(TCP, greeter="file:/no/such") is False
    assert (_open_files(), len(reactor.getDelayedCalls())) == (files, timers)
    assert len(reactor.getReaders()) == readers
    assert ours.service.reloads == 40
    assert not ours.service._retired


def test_a_service_that_does_not_run_ignores_a_reload() -> None:
    service = GreetingService(settings({}, [TCP]))
    service.reload()
    assert service.reloads == 0


def test_what_only_a_restart_changes_stays_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = settings({"drain": 1.0, "linger": 1.0}), settings({"drain": 2.0, "linger": 2.0})
    assert reloadable(old, new) == (new, [])
    records = [one._replace(reload=one.name != "drain") for one in SETTINGS]
    monkeypatch.setattr(
        "greetsvc.daemon.settings.reload._IN_SETTINGS", [one for one in records if one.name in {"drain", "linger"}]
    )
    kept, lines = reloadable(old, new)
    assert (kept.drain, kept.linger) == (1.0, 2.0)
    assert lines == ["drain stays as it is: only a restart changes it"]


def test_an_admin_site_that_was_not_changed_is_not_told() -> None:
    old, same, other = (settings({"admin": text}) for text in ("tcp:9090", "tcp:9090", "tcp:9091"))
    assert reloadable(old, same)[1] == []
    assert differences(old, same) == ""
    kept, lines = reloadable(old, other)
    assert kept.admin is old.admin
    assert lines == ["admin stays as it is: only a restart changes it"]
    assert reloadable(old, settings({}))[1] == lines


def test_the_log_says_what_changed() -> None:
    old = settings({"drain": 1.0, "greeting": "a"}, ["tcp:1", "tcp:2"])
    new = settings({"drain": 2.0, "greeting": "b"}, ["tcp:2", "proxy:tcp:1"])
    assert differences(old, new) == "changed: drain, greeting; added: proxy:tcp:1; removed: tcp:1"
    assert not differences(old, old)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"greeting": "a"}, {"greeting": "b"}, "greeting, greeting of unix:2"),
        ({"greeting": "a"}, {"greeter": "file:/etc/hostname"}, "greeter, greeting of unix:2"),
        ({"greeter": "text:a"}, {"greeter": "text:b"}, "greeting, greeting of unix:2"),
        ({"encoding": "ascii"}, {"encoding": "utf-8"}, "greeting of unix:2, encoding"),
        ({}, {}, "greeting of unix:2"),
        ({"protocol": "once"}, {"protocol": "lines"}, "greeting of unix:2, protocol"),
    ],
)
def test_what_listeners_have_of_all_is_told_once(old: dict[str, Any], new: dict[str, Any], told: str) -> None:
    def made(options: dict[str, Any], own: str) -> Settings:
        return settings({}, file={**options, "listen": ["unix:1", {"endpoint": "unix:2", "greeting": own}]})

    assert differences(made(old, "mine"), made(new, "my own")) == f"changed: {told}"


# The real program


def _file(folder: Path, text: str) -> Path:
    path = folder / "greet.toml"
    path.write_text(text)
    return path


def _reads(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as peer, peer.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("daemonized", [False, True])
def test_sighup_reads_the_file_again_and_the_command_line_wins(
    installed: Installed, tmp_path: Path, daemonized: bool
) -> None:
    """Relative paths mean what they meant at the start, though the program changes to another folder."""
    _file(tmp_path, 'greeting = "old"\nlinger = 1\nlisten = ["unix:greet.sock"]\n')
    options = ("--rundir", "/", "-l", str(tmp_path / "log"), "greetsvc", "--config", "greet.toml", "--linger", "3")
    pidfile = f"--pidfile={tmp_path / 'pid'}"
    program = installed.start(tmp_path, "twistd", *([] if daemonized else ["-n"]), pidfile, *options)
    if daemonized:
        program.wait()
    program = evolve(program, log=tmp_path / "log")
    program.wait_for("Server start at path")
    if daemonized:
        program = installed.programs.add(evolve(program, pid=int((tmp_path / "pid").read_text()), process=None))
    assert _unix(tmp_path / "greet.sock") == b"old"
    _file(tmp_path, 'greeting = "new"\nlinger = 2\nlog-format = "json"\nlisten = ["unix:greet.sock"]\n')
    program.send_signal(signal.SIGHUP)
    program.wait_for('"message": "The settings were reloaded (changed: log-format, greeting)"')
    assert _unix(tmp_path / "greet.sock") == b"new"
    _file(tmp_path, "greeting = 5\n")
    program.send_signal(signal.SIGHUP)
    program.wait_for("the old ones stay: greet.toml: greeting: must be text, not 5")
    assert _unix(tmp_path / "greet.sock") == b"new"
    program.stop()
    assert not (tmp_path / "greet.sock").exists()
    assert "Traceback" not in program.said()


def _unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        with peer.makefile("rb") as stream:
            return stream.read()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the certificates of an endpoint were read, whether that was in the reactor's thread."""
    found: list[bool] = []

    def warnings(_endpoint: Any, _client_ca: Any) -> list[str]:
        found.append(threading.current_thread() is threading.main_thread())
        return ["one has expired"]

    monkeypatch.setattr(certificates, "certificate_warnings", warnings)
    return found


@pytest.mark.parametrize("what", ["a new listener", "another client-ca", "nothing"])
@pytest_twisted.ensureDeferred
async def test_a_reload_reads_new_certificates_in_a_thread(
    start: Callable[..., Reloading], tmp_path: Path, reads: list[bool], log_lines: list[str], what: str
) -> None:
    (tmp_path / "DEFAULT.pem").write_bytes(issue("a", "a.example").both_pem)
    tls = rf"tls:{tmp_path}:port=0:interface=\:\:ffff\:127.0.0.1"
    ours = start(*([TCP] if what == "a new listener" else [tls]))
    reads.clear()
    log_lines.clear()
    options: dict[str, object] = {"client-ca": str(tmp_path / "DEFAULT.pem")} if what == "another client-ca" else {}
    ours.service.reread = lambda: settings(_named(options), [tls])
    await ours.service.begin_reload()
    assert (ours.service.reloads, ours.service.failed_reloads) == (1, 0)
    assert reads == ([] if what == "nothing" else [False])
    assert any("one has expired" in line for line in log_lines) == bool(reads)
    assert ours.port()


@pytest_twisted.ensureDeferred
async def test_reloads_that_come_while_one_reads_certificates_are_done_after_it(
    start: Callable[..., Reloading], tmp_path: Path, reads: list[bool]
) -> None:
    (tmp_path / "DEFAULT.pem").write_bytes(issue("a", "a.example").both_pem)
    tls = rf"tls:{tmp_path}:port=0:interface=\:\:ffff\:127.0.0.1"
    ours = start(TCP)
    answers = iter([[TCP, tls], [TCP, tls], [UDP], [UDP], ["tls:/nowhere:port=0"], ["tls:/nowhere:port=0"]])
    ours.service.reread = lambda: settings(_named({}), next(answers))
    done = [ours.service.begin_reload() for _ in range(3)]
    assert ours.service.reloads == 0
    for each in done:
        await each
    assert (ours.service.reloads, ours.service.failed_reloads) == (3, 1)
    assert reads == [False]
    assert [one.endpoint.text for one in ours.service.settings.listeners] == [UDP]


@pytest_twisted.ensureDeferred
async def test_a_service_that_stopped_while_certificates_were_read_stays_stopped(
    start: Callable[..., Reloading], tmp_path: Path
) -> None:
    (tmp_path / "DEFAULT.pem").write_bytes(issue("a", "a.example").both_pem)
    ours = start(TCP)
    ours.service.reread = lambda: settings(_named({}), [rf"tls:{tmp_path}:port=0"])
    done = ours.service.begin_reload()
    await ours.service.stopService()
    await done
    assert ours.service.reloads == 0
    assert not ours.service._listening
