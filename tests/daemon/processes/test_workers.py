"""Workers share the sockets and the limits; the parent replaces those that end, and adds up what they do."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import Logger, eventAsText, eventFromJSON

from greetsvc.daemon.defaults import limits_of
from greetsvc.daemon.processes.backoff import Backoff
from greetsvc.daemon.processes.channel import Message
from greetsvc.daemon.processes.relay import Forwarder, RelayObserver, receive
from greetsvc.daemon.processes.workers import Workers
from greetsvc.daemon.settings.config import settings
from greetsvc.errors import ConfigError
from greetsvc.ledger import Ledger
from greetsvc.net.bound import BoundSockets, BoundTo, NotHeldError
from greetsvc.net.sockets import datagram_socket, udp_sibling
from greetsvc.visit import Address
from tests.support.process import Program
from tests.support.service import ask
from tests.support.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"
MARKED = b"GREET/1 0123456789abcdef " + bytes(100)


def _visit(family: int, address: Any) -> bytes:
    with socket.socket(family) as peer:
        peer.settimeout(10)
        peer.connect(address)
        with peer.makefile("rb") as stream:
            return stream.read()


def _metrics(port: int) -> list[str]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8").splitlines()


def _processes(server: Program, times: int = 1) -> list[int]:
    """The workers, once they serve."""
    told = server.wait_for("2 workers serve: processes ", times)
    return [int(pid) for pid in told[-1].split(", ")]


def _waits_exclusively(pid: int) -> bool:
    """Whether an epoll of this process waits with EPOLLEXCLUSIVE, from the kernel (proc_pid_fdinfo(5))."""
    told = [file.read_text() for file in Path(f"/proc/{pid}/fdinfo").iterdir()]
    found = re.findall(r"^tfd:.* events: +(\w+)", "".join(told), re.MULTILINE)
    return any(int(events, 16) & 1 << 28 for events in found)


def _ended(pid: int) -> bool:
    return not Program(pid, Path(os.devnull)).alive()


def test_two_workers_serve_every_socket_and_have_one_log(installed: Installed, tmp_path: Path) -> None:
    """Then SIGTERM: all end, and the file of the UNIX socket is gone."""
    path = tmp_path / "greet.sock"
    listen = [f"tcp:0:{LOOPBACK}", f"udp:0:{LOOPBACK}", f"unix:{path}", f"unixgram:{path}-dgram"]
    options = [word for endpoint in listen for word in ("--listen", endpoint)]
    server = installed.start(
        tmp_path, "greetsvc", "--workers", "2", "--admin", f"tcp:0:{LOOPBACK}", *options, fresh=True
    )
    (admin,) = (int(rest.split()[0]) for rest in server.wait_for("Admin site at port: "))
    tcp, udp = server.ports(2)
    processes = _processes(server)
    assert _visit(socket.AF_INET, ("127.0.0.1", tcp))
    assert _visit(socket.AF_UNIX, str(path))
    assert ask("127.0.0.1", udp, request=MARKED)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "peer"))
        peer.settimeout(10)
        peer.sendto(MARKED, f"{path}-dgram")
        assert peer.recv(100)
    server.wait_for("Got a connection from ", 4)
    if sys.platform == "linux":  # each waits for the shared socket in a way that wakes one of them
        assert all(_waits_exclusively(pid) for pid in processes)
    sums = [f'greetsvc_greetings_total{{transport="{kind}"}} 1.0' for kind in ("tcp", "udp", "unix", "unixgram")]
    wait_until(lambda: {*sums, "greetsvc_workers 2.0"} <= {*_metrics(admin)}, lambda: "\n".join(_metrics(admin)))
    assert server.stop() == 0
    assert all(_ended(pid) for pid in processes)
    assert not path.exists()
    assert "Traceback" not in server.said()
    assert server.said().count("starting up") == 1


def test_a_worker_that_is_killed_is_replaced_and_goes_on_with_its_udp_socket(
    installed: Installed, tmp_path: Path
) -> None:
    """Each of 16 flows is answered before and after; what is sent in between waits."""
    server = installed.start(tmp_path, "greetsvc", "--workers", "2", "--listen", f"udp:0:{LOOPBACK}", fresh=True)
    (port,) = server.ports()
    flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
    try:
        for flow in flows:
            flow.settimeout(PATIENCE)
            flow.connect(("127.0.0.1", port))
        for pid in _processes(server):
            os.kill(pid, signal.SIGKILL)
            for flow in flows:
                flow.send(MARKED)
            assert all(flow.recv(100) for flow in flows)
            server.wait_for("ended (signal 9); another one starts")
    finally:
        for flow in flows:
            flow.close()
    server.wait_for("serves: process ", 2)
    assert server.stop() == 0


def test_workers_end_with_their_parent(installed: Installed, tmp_path: Path) -> None:
    server = installed.start(tmp_path, "greetsvc", "--workers", "2", "--listen", f"tcp:0:{LOOPBACK}", fresh=True)
    processes = _processes(server)
    server.kill()
    for pid in processes:
        wait_until(lambda pid=pid: _ended(pid), "an orphan goes on")  # type: ignore[misc]


def test_a_signal_for_all_processes_at_once_is_a_clean_stop(installed: Installed, tmp_path: Path) -> None:
    """As a service manager sends it. A worker hears of it, and of the end of its parent, in any order."""
    command = installed.command("greetsvc", "--workers", "2", "--listen", f"tcp:0:{LOOPBACK}")
    for _ in range(3):
        log, environment = tmp_path / f"log-{time.monotonic_ns()}", installed.environment({})
        server = Program.start(command, log, cwd=tmp_path, env=environment, start_new_session=True)
        installed.programs.add(server)
        _processes(server)
        os.killpg(server.pid, signal.SIGTERM)
        assert server.wait() == 0
        assert "critical" not in server.said(), server.said()
        assert "ended (" not in server.said()


def test_workers_are_replaced_although_the_folder_of_the_start_is_gone(installed: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    command = [sys.executable, "-m", "greetsvc", "--workers", "2", "--listen", f"tcp:0:{LOOPBACK}"]
    server = installed.programs.add(
        Program.start(command, tmp_path / "log", cwd=folder, env=installed.environment({}))
    )
    (port,) = server.ports()
    processes = _processes(server)
    folder.rmdir()
    for number, pid in enumerate(processes, 1):
        os.kill(pid, signal.SIGKILL)
        server.wait_for(f"Worker {number} serves: process ")
    assert _visit(socket.AF_INET, ("127.0.0.1", port))
    assert server.stop() == 0


def test_a_reload_reaches_every_worker(installed: Installed, tmp_path: Path) -> None:
    """A listener is added and one removed; a bad file changes nothing. Workers that start later have it too."""
    file = tmp_path / "greetsvc.toml"
    listen = '[[listen]]\nendpoint = "{}:0:interface=127.0.0.1"\n'
    file.write_text('greeting = "old"\nworkers = 2\n' + listen.format("tcp") + listen.format("udp"))
    server = installed.start(tmp_path, "greetsvc", "--config", str(file), fresh=True)
    tcp, _ = server.ports(2)
    processes = _processes(server)
    file.write_text("greeting = 7")
    server.send_signal(signal.SIGHUP)
    server.wait_for("The settings were not reloaded, and the old ones stay")
    assert _visit(socket.AF_INET, ("127.0.0.1", tcp)) == b"old"
    path = tmp_path / "greet.sock"
    file.write_text(f'greeting = "new"\nworkers = 2\n{listen.format("tcp")}[[listen]]\nendpoint = "unix:{path}"\n')
    server.send_signal(signal.SIGHUP)
    (told,) = server.wait_for("The settings were reloaded (")
    assert f"added: unix:{path}; removed: udp:0:" in told
    wait_until(lambda: _visit(socket.AF_UNIX, str(path)) == b"new")
    wait_until(lambda: _visit(socket.AF_INET, ("127.0.0.1", tcp)) == b"new")
    file.write_text("not = what it was")
    for number, pid in enumerate(processes, 1):
        os.kill(pid, signal.SIGKILL)
        server.wait_for(f"Worker {number} serves: process ")
        assert _visit(socket.AF_UNIX, str(path)) == _visit(socket.AF_INET, ("127.0.0.1", tcp)) == b"new"
    assert server.stop() == 0
    assert server.said().count("The settings were reloaded") == 1
    assert "Traceback" not in server.said()


def test_without_a_file_limit_each_worker_has_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings({"max-connections": 10, "max-per-source": 7})
    assert [limits_of(given, of)[0].max_connections for of in (1, 2, 3, 20)] == [10, 5, 3, 1]
    assert [limits_of(given, of)[0].max_per_source for of in (1, 2, 3, 20)] == [7, 3, 2, 1]
    monkeypatch.setattr("greetsvc.daemon.defaults.raise_limit", lambda: 10**6)
    whole, half = (limits_of(settings({}), of)[0] for of in (1, 2))
    assert half.max_connections == whole.max_connections // 2
    assert (whole.max_per_source, half.max_per_source) == (256, 128)


@pytest.mark.parametrize("value", [0, 1025, "two", -1, 2.5, True])
def test_the_number_of_workers_is_checked(value: object) -> None:
    with pytest.raises(ConfigError, match="workers: must be a whole number from 1 to 1024, or auto, not "):
        settings({"workers": value})


def test_auto_is_a_worker_for_each_core() -> None:
    assert settings({"workers": "auto"}).workers == len(os.sched_getaffinity(0))


def test_a_worker_is_replaced_at_once_and_then_with_growing_pauses() -> None:
    backoff = Backoff()
    assert [backoff.delay(0.1) for _ in range(10)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    assert backoff.delay(11.0) == 0.0
    assert [backoff.delay(1.0) for _ in range(3)] == [0, 0.1, 0.2]


def test_udp_siblings_share_a_port_that_no_other_program_gets() -> None:
    with datagram_socket("127.0.0.1", 0) as first, udp_sibling(first) as second:
        assert second.getsockname() == first.getsockname()
        assert not second.getblocking()
        with pytest.raises(CannotListenError, match="in use"):
            datagram_socket(*first.getsockname())


def test_a_process_that_is_to_make_no_sockets_makes_none() -> None:
    with pytest.raises(NotHeldError):
        BoundSockets(makes=False).get(BoundTo("udp", "", 8088), pytest.fail)


class _Channel:
    def __init__(self, hear: Callable[[Any], object]) -> None:
        self.hear = hear

    def say(self, message: Any, *, may_wait: bool = True) -> None:
        self.hear(json.loads(json.dumps(message)))


def test_the_parent_counts_what_its_workers_count() -> None:
    """Up to 20 visits and refusals at a time are told with their peers, and all are counted once."""
    clock, ours, theirs = Clock(), Ledger(), Ledger()
    seen: list[tuple[str, Address]] = []
    refused: list[tuple[str, Any, str]] = []
    theirs.watchers.append(lambda transport, peer: seen.append((transport, peer)))
    theirs.when_peer_refused = lambda *told: refused.append(told)
    messages: list[Any] = []

    def hear(message: Any) -> None:
        messages.append(message)
        receive(message, theirs)

    forwarder = Forwarder(ours, clock, _Channel(hear))  # type: ignore[arg-type]
    forwarder.start()
    ours.greet("tcp", ("::ffff:192.0.2.1", 7))
    clock.advance(0)
    assert seen == [("tcp", Address("192.0.2.1", 7))]
    ours.greet_all("udp", [("192.0.2.2", number) for number in range(100)])
    ours.greet("tcp", ("192.0.2.3", 7))
    for _ in range(30):
        ours.refuse_peer("max-connections", ("192.0.2.9", 1), "tcp")
    ours.refuse("oversize")
    assert len(messages) == 1
    clock.advance(0.2)
    assert len(messages) == 2
    assert len(seen) == 21
    assert refused[0] == ("max-connections", ("192.0.2.9", 1), "tcp")
    assert len(refused) == 20
    ours.greet("tcp", ("192.0.2.3", 8))
    forwarder.stop()
    assert theirs.greeted == ours.greeted == Counter({"udp": 100, "tcp": 3})
    assert theirs.refused == ours.refused == Counter({"max-connections": 30, "oversize": 1})
    assert not clock.getDelayedCalls()
    assert not ours.watchers


class _Process:
    """A worker's process, which counts the signals that it gets."""

    pid = 7

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)


def test_a_worker_that_says_nothing_for_ten_seconds_is_killed(log_lines: list[str]) -> None:
    clock, process = Clock(), _Process()
    service = Workers(settings({"workers": 2}), _Cannot(), dict, clock)  # type: ignore[arg-type]
    slot = service._slots[1]
    slot._process = process  # type: ignore[assignment]
    clock.pump([5.0] * 9)
    assert not clock.getDelayedCalls(), "it does not serve yet"
    slot._told({"serves": 7}, [])
    for _ in range(9):
        clock.pump([1.0] * 9)
        slot._told({"open": 3}, [])
    clock.advance(100.0)  # a pause of the parent itself: it hears afterwards what was said meanwhile
    assert not process.signals
    clock.pump([1.0] * 10)
    assert process.signals == ["KILL"]
    assert not clock.getDelayedCalls()
    assert sum("Worker 2 hangs: it said nothing for 10 s" in line for line in log_lines) == 1


class _Cannot:
    """A command that cannot be started."""

    def start(self, *_: object) -> None:
        raise PermissionError(13, "Permission denied", "/no/python")


def test_an_interpreter_out_of_reach_ends_the_service_with_one_line(log_lines: list[str]) -> None:
    """As after `-u`. The service then stops although no worker was ever there."""
    clock, failures = Clock(), list[int]()
    clock.callWhenRunning = lambda call: call()  # type: ignore[attr-defined]
    clock.stop = lambda: None  # type: ignore[attr-defined]
    service = Workers(settings({"workers": 2}), _Cannot(), dict, clock)  # type: ignore[arg-type]
    service.on_failure = lambda: failures.append(1)
    service.running = 1
    service._start()
    clock.pump([0.0, 0.1, 0.2, 0.4])
    stopped = service.stopService()
    assert stopped.called
    assert failures == [1]
    assert sum("workers cannot start: Permission denied: '/no/python'" in line for line in log_lines) == 1
    assert not clock.getDelayedCalls()
    service.worker_serves(service._slots[0])  # which it said before that
    assert not [line for line in log_lines if line.startswith("Server start")]
    told = "Worker 1 could not be started (Permission denied: '/no/python'); another one starts"
    assert next(line for line in log_lines if line.startswith("Worker 1")) == told


def test_limits_that_cannot_be_shared_out_are_told(free_port: int) -> None:
    listen = [f"tcp:{free_port}:{LOOPBACK}"]
    given = {"workers": 4, "max-connections": 2, "max-per-source": 4}
    service = Workers(settings(given, listen), _Cannot(), dict)  # type: ignore[arg-type]
    service.bind(check=True)
    told = [line for line in service.describe() if "workers" in line]
    service.unbind()
    assert told == ["max-connections is 2, but each of the 4 workers allows 1, so 4 in all"]


def test_a_failure_keeps_its_text_on_the_way_to_the_parent() -> None:
    said: list[Message] = []
    observer = RelayObserver(_Channel(said.append))  # type: ignore[arg-type]
    try:
        raise RuntimeError("what it says")
    except RuntimeError:
        Logger(namespace="here", observer=observer).failure("It {what} failed", what="quite")
    told = eventAsText(eventFromJSON(said[0]["log"]))
    assert "[here#critical] It quite failed" in told
    assert "RuntimeError: what it says" in told
