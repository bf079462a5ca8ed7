"""The command `greet`: wrong usage in one line, and the installed script against real peers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from greetsvc import __version__
from greetsvc.cli import command as cli
from greetsvc.cli.plan import ProbePlan
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.monitoring import HealthReport, NagiosReport
from greetsvc.client.report.text import TextReport
from tests.support.greet import FORKED, GREET

WRONG = [
    (["-c", "-1"], "-c -1: must be a whole number from 0 to 1000000000"),
    (["-c", "1.5"], "-c 1.5: must be a whole number from 0 to 1000000000"),
    (["-c", "many"], "-c many: must be a whole number from 0 to 1000000000"),
    (["-c", "1_0"], "-c 1_0: must be a whole number from 0 to 1000000000"),
    (["-c", "9" * 400], "-c " + "9" * 400 + ": must be a whole number from 0 to 1000000000"),
    (["-c", ""], "-c : must be a whole number from 0 to 1000000000"),
    (["-c"], "-c: needs a value"),
    (["-i", "-0.1"], "-i -0.1: must be a number from 0 to 86400"),
    (["-i", "inf"], "-i inf: must be a number from 0 to 86400"),
    (["-i", "1e999"], "-i 1e999: must be a number from 0 to 86400"),
    (["-t", "0"], "-t 0: must be a number above 0, at most 86400"),
    (["-t", "nan"], "-t nan: must be a number above 0, at most 86400"),
    (["-t", "1s"], "-t 1s: must be a number above 0, at most 86400"),
    (["-t", "1e9"], "-t 1e9: must be a number above 0, at most 86400"),
    (["-t", "\x1b[2J"], "-t \\x1b[2J: must be a number above 0, at most 86400"),
    (["--warn", "0"], "--warn 0: must be a number above 0, at most 86400000"),
    (["--warn", "-5"], "--warn -5: must be a number above 0, at most 86400000"),
    (["--trace", "-c", "3"], "-c: cannot be combined with --trace"),
    (["--trace", "--duration", "3"], "--trace: cannot be combined with --duration"),
    (["--trace", "unix:/a"], "--trace: needs an IP target, not unix:/a"),
    (["--size", "-1", "udp:127.0.0.1"], "--size -1: must be a whole number from 0 to 65507"),
    (["--size", "65508", "udp:127.0.0.1"], "--size 65508: must be a whole number from 0 to 65507"),
    (["--size", "100"], "--size 100: needs a udp: or unixgram: target, not tcp:127.0.0.1:8088"),
    (["-4", "-6"], "-4: cannot be combined with -6"),
    (["-6", "127.0.0.1"], "-6 tcp:127.0.0.1:8088: the address is IPv4, not IPv6"),
    (["-4", "udp:[::1]:7"], "-4 udp:[::1]:7: the address is IPv6, not IPv4"),
    (["-4", "unix:/x"], "-4 unix:/x: a UNIX socket has no address family"),
    (["--expect", "("], "--expect (: is not a regular expression: missing ), unterminated subpattern at position 0"),
    (
        ["--expect", "a{99999999999}"],
        "--expect a{99999999999}: is not a regular expression: the repetition number is too large",
    ),
    (
        ["--expect", "(?a)(?u)"],
        "--expect (?a)(?u): is not a regular expression: ASCII and UNICODE flags are incompatible",
    ),
    (
        ["--expect", "(?L)x"],
        "--expect (?L)x: is not a regular expression: bad inline flags: "
        "cannot use 'L' flag with a str pattern at position 3",
    ),
    (["--encoding", "klingon"], "--encoding klingon: is not a text encoding that Python knows"),
    (["--encoding", "rot13"], "--encoding rot13: is not a text encoding that Python knows"),
    (["--encoding", ""], "--encoding '': is not a text encoding that Python knows"),
    (["--encoding", "\udcff"], "--encoding \\udcff: is not a text encoding that Python knows"),
    (["--encoding", "idna"], "--encoding idna: cannot show bytes that do not decode"),
    (["--json", "--nagios"], "--json: cannot be combined with --nagios"),
    (["--json", "--healthcheck"], "--json: cannot be combined with --healthcheck"),
    (["--nagios", "--healthcheck"], "--nagios: cannot be combined with --healthcheck"),
    (["--nagios", "-c", "0"], "-c 0: cannot be combined with --nagios, which reports at the end"),
    (["--healthcheck", "-c", "0"], "-c 0: cannot be combined with --healthcheck, which reports at the end"),
    (["--json=yes"], "--json: takes no value"),
    (["--ca", "/x"], "--ca /x: needs a tls: target, not tcp:127.0.0.1:8088"),
    (["--insecure", "udp:127.0.0.1"], "--insecure: needs a tls: target, not udp:127.0.0.1:8088"),
    (["--sni", "a", "unix:/x"], "--sni a: needs a tls: target, not unix:/x"),
    (["--ca", "/nonexistent", "tls:h"], "--ca /nonexistent: cannot be read: No such file or directory"),
    (["--ca", "/", "tls:h"], "--ca /: is not a plain file"),
    (["--ca", "/dev/null", "tls:h"], "--ca /dev/null: is not a plain file"),
    (
        ["--ca", "/x", "--insecure", "tls:h"],
        "--ca /x: cannot be combined with insecure, which accepts any certificate",
    ),
    (["--cert", "/nonexistent", "tls:h"], "--cert /nonexistent: cannot be read: No such file or directory"),
    (["--key", "/dev/null", "tls:h"], "--key /dev/null: needs a certificate (cert)"),
    (["--ca", "", "tls:h"], "--ca: must be a file, not ''"),
    (["--cert", "", "--key", "", "tls:h"], "--cert: must be a file, not ''"),
    (["--key", "", "tls:h"], "--key: must be a file, not ''"),
    (["--sni", "", "tls:h"], "--sni: must be a host name, not ''"),
    (["--ca", "", "127.0.0.1:1"], "--ca '': needs a tls: target, not tcp:127.0.0.1:1"),
    (["--sni", "", "udp:h"], "--sni '': needs a tls: target, not udp:h:8088"),
    (["--sni", "a b", "tls:h"], "--sni a b: is not a host name"),
    (["--bogus"], "--bogus: there is no such option"),
    (["--concurency", "8"], "--concurency: there is no such option; did you mean --concurrency?"),
    (["--nagois"], "--nagois: there is no such option; did you mean --nagios?"),
    (["--expct=x"], "--expct: there is no such option; did you mean --expect?"),
    (["--duration"], "--duration: needs a value"),
    (["--nagios="], "--nagios: takes no value"),
    (["-z"], "-z: there is no such option"),
    (["--talk", "line"], "--talk line: must be one of lines, netstring, int32, websocket"),
    (["--talk", ""], "--talk '': must be one of lines, netstring, int32, websocket"),
    (["--talk", "lines", "udp:h"], "--talk lines: needs a stream target, not udp:h:8088"),
    (["--talk", "lines", "--say", "a\nb"], "--say a\\nb: a message in a line cannot have a line end"),
    (["--talk", "int32", "--encoding", "ascii", "--say", "名"], "--say 名: cannot be written in ascii"),
    (["--talk", "websocket", "--encoding", "gbk"], "--encoding gbk: the text of WebSocket is UTF-8"),
    (
        ["--talk", "lines", "--flows", "2"],
        "--flows 2: cannot be combined with --talk: whoever closes first keeps the port for a minute",
    ),
    (["--say", "Ada"], "--say Ada: needs --talk or --hold"),
    (["--hold", "0"], "--hold 0: must be a number above 0, at most 86400, or auto, or auto:S"),
    (["--hold", "autos"], "--hold autos: must be a number above 0, at most 86400, or auto, or auto:S"),
    (["--hold", "auto:"], "--hold auto:: must be a number above 0, at most 86400, or auto, or auto:S"),
    (["--hold", "5", "-c", "2"], "-c: cannot be combined with --hold"),
    (["--hold", "5", "--source-port", "9"], "--source-port: cannot be combined with --hold"),
    (["--hold", "5", "--duration", "5"], "--hold: cannot be combined with --duration"),
    (["--hold", "5", "unixgram:/x"], "--hold: needs a stream target, not unixgram:/x"),
    (["--hold", "5", "--json", "--nagios"], "--json: cannot be combined with --nagios"),
    (["--dscp", "64"], "--dscp 64: must be a whole number from 0 to 63"),
    (["--dscp", "8", "unix:/x"], "--dscp 8: needs an IP target, not unix:/x"),
    (["--source-port", "0"], "--source-port 0: must be a whole number from 1 to 65535"),
    (["--source-port", "9", "unix:/x"], "--source-port 9: needs an IP target, not unix:/x"),
    (["--flows", "1"], "--flows 1: must be a whole number from 2 to 256"),
    (["--flows", "8", "unix:/x"], "--flows 8: needs an IP target, not unix:/x"),
    (
        ["--flows", "8", "--source-port", "65530"],
        "--flows 8: only 6 ports remain from 65530",
    ),
    (["--proxy-v1", "h:1"], "--proxy-v1 h:1: must be ADDRESS:PORT, such as 192.0.2.1:1234"),
    (["--proxy-v2", "1.2.3.4:5", "udp:h"], "--proxy-v2 1.2.3.4:5: needs a stream target, not udp:h:8088"),
    (
        ["--proxy-v1", "1.2.3.4:5", "--proxy-v2", "1.2.3.4:5"],
        "--proxy-v1 1.2.3.4:5: cannot be combined with --proxy-v2",
    ),
    (["--jitter", "8"], "--jitter: there is no such option"),
    (["a", "b"], "b: there can be only one TARGET"),
    (["a", "b", "c"], "b c: there can be only one TARGET"),
    ([""], "target '': the host is missing"),
    (["8088"], "target '8088': a port alone is not a target; write 127.0.0.1:8088"),
    (["h:0"], "target 'h:0': port '0' is not a number from 1 to 65535"),
    (["h:65536"], "target 'h:65536': port '65536' is not a number from 1 to 65535"),
    (["http://h"], "target 'http://h': port '//h' is not a number from 1 to 65535"),
    (["sctp:h:1"], "target 'sctp:h:1': 'sctp' is not a transport; use one of tcp udp tls unix unixgram"),
    (["unix:"], "target 'unix:': the path is missing"),
    (["a\nb"], "target 'a\\nb': 'a\\nb' is not a host name"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[" ".join(row[0])[:30] for row in WRONG])
def test_wrong_usage_is_one_line_and_status_3(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["greet", *arguments])
    assert cli.main() == 3
    assert capsys.readouterr() == ("", f"greet: {line}\n")


def script(*arguments: str, program: str = FORKED, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_installed_script_says_so_too() -> None:
    some = WRONG[::32]  # it calls the same function, and takes a third of a second to start
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda row: script(*row[0], program=GREET), some)
    for (arguments, line), done in zip(some, results, strict=True):
        told = (arguments, done.returncode, done.stdout, done.stderr)
        assert told == (arguments, 3, "", f"greet: {line}\n")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the plan that a command line comes to."""

    def make(*arguments: str) -> ProbePlan:
        plans: list[ProbePlan] = []

        def drive(plan: ProbePlan, _: object) -> int:
            plans.append(plan)
            return 0

        monkeypatch.setattr(cli, "drive", drive)
        monkeypatch.setattr(sys, "argv", ["greet", *arguments])
        assert cli.main() == 0
        return plans[0]

    return make


def main_options(plan: ProbePlan) -> tuple[float, int | None, int, str]:
    options = plan.probe.options
    return options.timeout, options.family, options.size, options.encoding


def test_without_options_this_host_is_probed_once_over_tcp(plan: Any) -> None:
    made = plan()
    assert str(made.probe.target) == "tcp:127.0.0.1:8088"
    assert (made.count, made.interval, made.verbose) == (1, 1.0, False)
    assert (
        made.probe.options.timeout,
        made.probe.options.family,
        made.probe.options.size,
        made.probe.options.encoding,
    ) == (
        5.0,
        None,
        1200,
        "utf-8",
    )
    assert isinstance(made.report, TextReport)
    assert (made.expectations.expect, made.expectations.warn) == (None, None)


def test_options_reach_the_plan(plan: Any) -> None:
    made = plan("-c3", "-i", ".5", "-t", "2", "-6", "-v", "--size", "64", "--encoding", "ascii", "udp:h")
    assert (made.count, made.interval, made.verbose) == (3, 0.5, True)
    assert (
        made.probe.options.timeout,
        made.probe.options.family,
        made.probe.options.size,
        made.probe.options.encoding,
    ) == (2.0, 6, 64, "ascii")
    made = plan("-4", "--expect", "^h", "--warn", "1.5e1", "h")
    assert made.probe.options.family == 4
    assert made.expectations.warn == 0.015
    assert made.expectations.expect == re.compile("^h")
    assert plan("--insecure", "tls:h").probe.options.tls is not None
    assert isinstance(plan("--json").report, JsonReport)
    assert isinstance(plan("--nagios").report, NagiosReport)
    assert isinstance(plan("--healthcheck").report, HealthReport)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("-c 2 udp:h", ""),
        ("--flows 2 udp:h", ""),
        ("-c 2 --expect x udp:h", "--expect asks for greetings, not for measured answers"),
        ("-c 2 --size 160 udp:h", "a request of 160 bytes (--size) is too short for it"),
        ("-c 2 --size 161 udp:h", ""),
        ("-c 2 h", "only UDP is measured"),
        ("udp:h", "it is one probe"),
    ],
)
def test_runs_over_udp_are_measured_or_say_why_not(plan: Any, arguments: str, why: str) -> None:
    assert plan(*arguments.split()).unmeasured == why


def test_help_and_version_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["greet", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"greet {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["greet", "--help"])
    assert cli.main() == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--expect", "--nagios", "--healthcheck", "--sni", "-c N", "[TARGET]"))


def test_ctrl_c_before_anything_ran_is_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "drive", interrupted)
    monkeypatch.setattr(sys, "argv", ["greet"])
    assert cli.main() == 2


class Peer:
    """A blocking server in the manner of the socket tutorial: greets, closes, one client at a time."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self._over = False
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while not self._over:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                connection.sendall(b"Thank you for connecting\r\n")
                connection.close()

    def stop(self) -> None:
        self._over = True
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.stop()


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_the_greeting_is_printed_and_the_status_is_0(peer: Peer) -> None:
    done = script(peer.target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Thank you for connecting\n", "")


def test_not_as_expected_or_slow_is_status_1(peer: Peer) -> None:
    done = script("--expect", "Welcome", peer.target)
    assert (done.returncode, done.stdout) == (1, "Thank you for connecting\n")
    assert done.stderr == f"greet: tcp:{peer.target}: not as expected: nothing matches Welcome\n"
    done = script("--warn", "0.0001", peer.target)
    assert done.returncode == 1
    assert "slow: " in done.stderr
    assert script("--expect", "^Thank you.*connecting$", "--warn", "5000", peer.target).returncode == 0


def test_not_greeted_is_status_2_and_says_the_step(nowhere: str) -> None:
    done = script(nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    failure, causes = done.stderr.splitlines()
    assert failure == f"greet: tcp:{nowhere}: connect: Connection refused"
    assert causes.startswith(f"greet: tcp:{nowhere}: likely: the host is there")
    done = script(f"udp:{nowhere}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"greet: udp:{nowhere}: greet: Connection refused")


def test_a_name_that_is_not_there_is_status_2_at_resolve() -> None:
    done = script("-t", "5", "no-such-name.invalid")
    assert done.returncode == 2
    assert done.stderr.startswith("greet: tcp:no-such-name.invalid:8088: resolve: ")
    assert done.stderr.count("\n") == 2


def test_a_health_check_is_quiet_and_its_status_says_it(peer: Peer, nowhere: str) -> None:
    done = script("--healthcheck", peer.target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = script("--healthcheck", nowhere)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_json_lines_are_json_and_of_several_the_last_is_the_summary(peer: Peer) -> None:
    done = script("--json", "-c", "3", "-i", "0.01", peer.target)
    *probes, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [probe["ok"] for probe in probes] == [True] * 3
    assert last["summary"]["greeted"] == 3
    assert (done.returncode, done.stderr) == (0, "")


def test_monitoring_gets_its_line(peer: Peer) -> None:
    done = script("--nagios", peer.target)
    assert done.returncode == 0
    assert re.fullmatch(r"GREET OK - .* \| time=0\.\d{6}s;;;0\.000000;5\.000000 loss=0%;;;0;100\n", done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_prints_the_summary_so_far_and_ends_by_the_result(peer: Peer, number: signal.Signals) -> None:
    with subprocess.Popen(
        [FORKED, "-c", "0", "-i", "0.01", peer.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith("1 tcp 127.0.0.1:")
        running.send_signal(number)
        rest = running.stdout.read()
        assert running.stderr.read() == ""
        assert running.wait(30) == 0
    assert re.search(r"\n(\d+) sent, \1 greeted, 0 lost \(0 %\)", rest)


def test_a_signal_while_waiting_for_the_first_greeting_is_status_2_without_noise() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        with subprocess.Popen(
            [FORKED, f"127.0.0.1:{silent.getsockname()[1]}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            connection, _ = silent.accept()
            running.send_signal(signal.SIGINT)
            assert running.communicate(timeout=30) == (b"", b"")
            connection.close()
            assert running.returncode == 2


def test_a_reader_that_leaves_ends_the_run_quietly(peer: Peer) -> None:
    with subprocess.Popen(
        [FORKED, "-c", "0", "-i", "0.01", peer.target], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(peer: Peer) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([FORKED, peer.target], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, b"greet: standard output: No space left on device\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line_for_help_and_version_too(option: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([FORKED, option], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, b"greet: standard output: No space left on device\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_end_quietly_when_the_reader_left(option: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run([FORKED, option], stdout=out, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


CLOSED = 'exec "$0" "$@" >&-'


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--nagios"], ["-c", "2", "-i", "0"]])
def test_a_standard_output_that_is_closed_is_one_line(peer: Peer, arguments: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", CLOSED, GREET, *arguments, peer.target], stderr=subprocess.PIPE, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (3, b"greet: standard output: it is closed\n")


def test_a_health_check_needs_no_standard_output(peer: Peer) -> None:
    done = subprocess.run(
        ["sh", "-c", CLOSED, GREET, "--healthcheck", peer.target],
        stderr=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_more_flows_than_there_may_be_files_are_refused_in_one_line() -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40; exec "$0" "$@"', FORKED, "--flows", "60"],
        stderr=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.fullmatch(
        rb"greet: --flows 60: too many for a process that may open 40 files in all \(ulimit -n\)\n", done.stderr
    )


def test_an_ascii_terminal_gets_escapes(peer: Peer) -> None:
    done = script("--expect", "Grüß", peer.target, program=GREET, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "nothing matches Gr\\xfc\\xdf" in done.stderr


def test_h_is_help() -> None:
    short, long = script("-h"), script("--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert "-h, --help" in short.stdout


@pytest.mark.parametrize(
    ("arguments", "target"),
    [(["-6"], "tcp:[::1]:8088"), ([], "tcp:127.0.0.1:8088"), (["-4"], "tcp:127.0.0.1:8088")],
)
def test_without_a_target_it_is_loopback_of_the_family(arguments: list[str], target: str) -> None:
    assert json.loads(script("--json", "-t", "1", *arguments).stdout)["target"] == target


def test_verbose_says_each_remark_once(peers: Any) -> None:
    def answer(sock: socket.socket, _: bytes, sender: Any) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.sendto(b"stray", sender)
        sock.sendto(b"hello", sender)

    record = {"greetsvc": 1, "instance": "a", "nonce": None, "transport": "tcp", "via": None, "datagram": None}
    record |= {"you": {"host": "192.0.2.1", "port": 5}, "me": {"host": "192.0.2.2", "port": 6}}
    line = json.dumps({**record, "syn": None, "tcp": None, "tls": None}).encode()
    for target, remark in (
        (peers.datagram(answer), "an answer came from another address"),
        (peers.stream(lambda connection: connection.sendall(line)), "became 192.0.2.1:5"),
        (peers.stream(lambda connection: connection.sendall(line)), "hops, MSS, TCP options, DSCP: not known"),
    ):
        assert script("-v", target).stderr.count(remark) == 1
        assert script("-v", "-c", "2", "-i", "0", target).stderr.count(remark) == 2, "in each trace"
        assert script(target).stderr.count(remark) == 1
