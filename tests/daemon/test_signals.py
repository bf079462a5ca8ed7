"""No signal ends the service before it has drained, and SIGHUP and SIGUSR1 never do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from greetsvc.daemon.signals import handle_signals
from greetsvc.interrupts import hold_signals

if TYPE_CHECKING:
    from tests.support.installed import Installed
    from tests.support.process import Program

LOOPBACK = "interface=127.0.0.1"
GREETING = b"Thank you for connecting\r\n"
Start = "Callable[[Installed, Path], Program]"


def _twistd(installed: Installed, folder: Path, *listen: str) -> Program:
    return installed.start(folder, "twistd", "-n", "--pidfile=", "greetsvc", *listen)


def _greetsvc(installed: Installed, folder: Path, *listen: str) -> Program:
    return installed.start(folder, "greetsvc", *listen)


def _twist(installed: Installed, folder: Path, *listen: str) -> Program:
    return installed.start(folder, "twist", "--log-format", "text", "greetsvc", *listen)


def _daemon(installed: Installed, folder: Path, *listen: str) -> Program:
    return installed.daemon(folder, *listen)


def _json(installed: Installed, folder: Path, *listen: str) -> Program:
    return installed.daemon(folder, "--log-format", "json", *listen)


def _file(installed: Installed, folder: Path, *listen: str) -> Program:
    command = ("twistd", "-n", "--pidfile=", "-l", str(folder / "log"), "greetsvc", *listen)
    return evolve(installed.start(folder, *command), log=folder / "log")


EVERY_WAY = pytest.mark.parametrize("start", [_twistd, _greetsvc, _twist, _daemon, _json, _file])


def _visit(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as peer, peer.makefile("rb") as stream:
        return stream.read()


@EVERY_WAY
def test_sighup_and_sigusr1_do_not_end_the_service_from_its_first_line_on(
    installed: Installed, tmp_path: Path, start: Any
) -> None:
    server = start(installed, tmp_path, "--listen", f"tcp:0:{LOOPBACK}")
    (port,) = server.ports()
    server.send_signal(signal.SIGHUP)
    server.wait_for("The settings were reloaded (there is no settings file; the files that options name were read")
    assert _visit(port) == GREETING
    server.send_signal(signal.SIGUSR1)
    if start in (_daemon, _json, _file):
        evolve(server, log=tmp_path / "log.1").wait_for("The settings were reloaded")
    else:
        server.wait_for("SIGUSR1 ignored: there is no log file")
    server.send_signal(signal.SIGHUP)
    server.wait_for("The settings were reloaded", 1 if start in (_daemon, _json, _file) else 2)
    assert _visit(port) == GREETING
    assert server.stop() in ({0} if start is _greetsvc else {-signal.SIGTERM, None})
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("start", [_twistd, _greetsvc, _twist])
def test_a_signal_at_the_first_line_of_the_log_drains_too(
    installed: Installed, tmp_path: Path, start: Any, number: signal.Signals
) -> None:
    """The connection is in the queue before the log says that the service serves, and is greeted all the same."""
    path = tmp_path / "greet.sock"
    server = start(installed, tmp_path, "--listen", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        while True:
            try:
                peer.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert server.alive(), server.said()
        server.wait_for("Server start at path: ")
        server.send_signal(number)
        with peer.makefile("rb") as stream:
            assert stream.read() == GREETING
    status = server.wait()
    assert status == (0 if start is _greetsvc else -number)
    assert "Traceback" not in server.said()
    assert not path.exists()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("start", [_twistd, _greetsvc, _twist])
def test_two_signals_at_once_are_no_error(
    installed: Installed, tmp_path: Path, start: Any, second: signal.Signals
) -> None:
    server = start(installed, tmp_path, "--listen", f"tcp:0:{LOOPBACK}")
    server.wait_for("Server start at port: ")
    for number in (signal.SIGTERM, second):
        server.send_signal(number)
    server.wait()
    assert "Traceback" not in server.said()


class _Reactor:
    """A reactor that does not run yet, and calls what it was given when the test says so."""

    running = False

    def __init__(self) -> None:
        self.queue: list[Callable[[], object]] = []
        self.stops: list[int] = []

    def callFromThread(self, call: Callable[..., object], *arguments: Any) -> None:
        self.queue.append(lambda: call(*arguments))

    callWhenRunning = callFromThread

    def sigInt(self, number: int, _frame: object = None) -> None:
        self.stops.append(number)

    sigTerm = sigInt

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.sigTerm)
        for call in self.queue:
            call()


@pytest.fixture
def defaults() -> Any:
    """The signals as a program has them at its start."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 3])
def test_a_stop_signal_before_the_reactor_runs_waits_for_it(number: signal.Signals, times: int) -> None:
    reactor = _Reactor()
    handle_signals(reactor, rotate=lambda: None, reload=lambda: None, upgrade=lambda: None)
    for _ in range(times):
        signal.raise_signal(number)
    assert not reactor.stops
    reactor.run()
    assert reactor.stops == [number]
    signal.raise_signal(signal.SIGINT)
    assert reactor.stops == [number], "it stops already"


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_of_several_stop_signals_the_reactor_gets_the_first(first: signal.Signals, second: signal.Signals) -> None:
    reactor = _Reactor()
    handle_signals(reactor, rotate=pytest.fail, reload=pytest.fail, upgrade=pytest.fail)
    reactor.run()
    for number in (first, second, second):
        signal.raise_signal(number)
    assert reactor.stops == [first]


@pytest.mark.usefixtures("defaults")
def test_signals_that_wait_for_the_reactor_together_are_one() -> None:
    reactor, reloads = _Reactor(), []
    handle_signals(reactor, rotate=pytest.fail, reload=lambda: reloads.append(1), upgrade=pytest.fail)
    for _ in range(2):
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        reactor.run()
        reactor.queue.clear()
    assert len(reloads) == 2


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_came_while_the_program_started_is_done_when_the_reactor_runs(number: signal.Signals) -> None:
    reactor, done = _Reactor(), []
    hold_signals()
    for _ in range(2):
        signal.raise_signal(number)
    handle_signals(
        reactor,
        rotate=lambda: done.append(signal.SIGUSR1),
        reload=lambda: done.append(signal.SIGHUP),
        upgrade=lambda: done.append(signal.SIGUSR2),
    )
    assert not done
    reactor.run()
    assert done == [number]


@pytest.mark.usefixtures("defaults")
def test_handlers_that_are_set_already_stay() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) does
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold_signals()
    handle_signals(_Reactor(), rotate=pytest.fail, reload=pytest.fail, upgrade=pytest.fail)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
        assert signal.getsignal(number) == signal.SIG_IGN
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("defaults")
def test_the_signals_of_a_program_that_runs_already_are_its_own() -> None:
    reactor = _Reactor()
    reactor.running = True
    handle_signals(reactor, rotate=pytest.fail, reload=pytest.fail, upgrade=pytest.fail)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert not reactor.queue
