"""What the far end can make greet print and keep is bounded; perfdata always arrives."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import socket
import subprocess
import time
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.cli.plan import ProbePlan
from greetsvc.client.path import PathChanges, PathNote
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.causes import explain
from greetsvc.client.report.drawings import bars
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.monitoring import HealthReport, NagiosReport
from greetsvc.client.report.text import TextReport, summary_notes
from greetsvc.client.result import Seconds
from greetsvc.client.stats import Expectations, RunStats
from greetsvc.client.target import parse
from greetsvc.client.words import decimal
from greetsvc.console import Output
from greetsvc.printable import shortened
from greetsvc.visit import Address
from greetsvc.wire import decode_record
from tests.support.greet import FORKED, GREET

TARGET = parse("127.0.0.1")
PERFDATA = re.compile(r" \| time=\S+ loss=\S+;;;0;100\n")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    # The encoding of text is chosen when Python starts.
    program = GREET if any(name.startswith("PYTHON") for name in environment) else FORKED
    variables = {**os.environ, **environment}
    return subprocess.run([program, *arguments], capture_output=True, timeout=60, check=False, env=variables)


def greeting(text: str, **more: Any) -> Greeting:
    return Greeting(
        TARGET, text.encode("utf-8", "replace"), text, Seconds(total=0.1), Address("127.0.0.1", 1), **more
    )


@pytest.mark.parametrize("text", [b"x" * 20_000, "ä€😀".encode() * 5000, b"\x1b[2J|'\x00" * 3000, b"\xff" * 60_000])
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_perfdata_arrives_within_a_kilobyte(peers: Any, text: bytes, locale: str) -> None:
    target = peers.stream(lambda connection: connection.sendall(text))
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"} if locale == "C" else {}
    ways = [([], 0), (["--expect", "nothing of it"], 1), (["-c", "2", "-i", "0"], 0)]
    for more, status in ways[:1] if ascii_only else ways:
        done = run("--nagios", *more, target, LC_ALL=locale, **ascii_only)
        assert done.returncode == status
        assert len(done.stdout) < 1024
        assert PERFDATA.search(done.stdout.decode())


def test_perfdata_arrives_after_a_long_error() -> None:
    report = NagiosReport(TARGET, 5.0, None)
    report.probe(1, GreetFailed(errno.EPROTO, "not for us, but for " + "n" * 60_000, "tls"), [])
    (line,) = report.end(RunStats(sent=1)).out
    assert len(line) < 1024
    assert PERFDATA.search(line + "\n")


def test_the_lines_of_a_series_are_bounded_and_json_is_whole(peers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall(b"y" * 50_000))
    done = run("-c", "2", "-i", "0", "-v", target)
    assert max(len(line) for line in (done.stdout + done.stderr).splitlines()) < 1200
    assert b"(50000 characters)" in done.stdout
    assert json.loads(run("--json", target).stdout)["greeting"] == "y" * 50_000
    assert run(target).stdout == b"y" * 50_000 + b"\n", "a single greeting is what was asked for"


def strays(sock: socket.socket, _: bytes, sender: Any) -> None:
    """Answers from 200 other ports, and then from the right one: a usual receive queue has room for all."""
    for _number in range(200):
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.sendto(b"stray", sender)
    sock.sendto(b"hello", sender)


def test_stray_datagrams_make_few_lines(peers: Any) -> None:
    done = run("-v", "-t", "20", peers.datagram(strays))
    assert done.stdout == b"hello\n"
    lines = done.stderr.decode().splitlines()
    assert len(lines) < 30
    assert sum("another address" in line for line in lines) == 8
    assert sum("further remarks are left out" in line for line in lines) == 1


@pytest_twisted.ensureDeferred
async def test_remarks_are_bounded_in_json_and_in_python(peers: Any) -> None:
    target = peers.datagram(strays)
    result = await greet(target, timeout=20)
    assert len(result.notes) == 9
    assert max(map(len, result.notes)) < 700


def test_an_error_is_bounded() -> None:
    failed = GreetFailed(errno.EPROTO, "x" * 60_000, "tls")
    assert max(map(len, TextReport(TARGET, several=False).probe(1, failed, []).err)) < 1200
    assert max(map(len, HealthReport(TARGET).probe(1, failed, []).err)) < 1200


def record(instance: str, host: str) -> bytes:
    ends = {"host": host, "port": 1}
    line = {"greetsvc": 1, "instance": instance, "nonce": None, "transport": "tcp", "you": ends, "me": ends}
    return json.dumps({**line, "via": None, "syn": None, "tcp": None, "tls": None, "datagram": None}).encode()


def test_the_fields_of_a_record_are_bounded_on_reading() -> None:
    assert decode_record(record("a" * 200, "h" * 200)) is not None
    assert decode_record(record("a" * 201, "h")) is None
    assert decode_record(record("a", "h" * 30_000)) is None
    tls = {"version": "v" * 201, "cipher": "c", "sni": None, "alpn": None}
    assert decode_record(json.dumps({**json.loads(record("a", "h")), "tls": tls}).encode()) is None


def changed(instance: str, notes: tuple[PathNote, ...] = ()) -> PathChanges:
    return PathChanges(
        nat=False, proxy=False, hops=None, mss=None, stripped=None, dscp=None, instance=instance, notes=notes
    )


def test_replicas_are_counted_by_name_up_to_a_number() -> None:
    stats = RunStats()
    for number in range(1000):
        stats.add(greeting("x", path=changed(f"instance {number}")), [])
    assert (len(stats.replicas), stats.replicas["others"], stats.replicas.total()) == (65, 936, 1000)
    assert summary_notes(stats)[0].startswith("more than 64 replicas: others 93.6 % (936), ")
    summary = json.loads(JsonReport(TARGET, several=True).end(stats).out[0])["summary"]
    assert summary["replicas"]["others"] == 936


def test_findings_about_the_path_are_bounded() -> None:
    said: set[str] = set()
    lines = []
    for number in range(1000):
        note = PathNote(f"NAT: yes, to port {number}", True, f"NAT {number}")
        lines += explain(greeting("x", path=changed("a", (note,))), said)
    assert len(lines) == len(said) == 201
    assert lines[-1] == "further remarks about the path are left out: they differ each time"


def test_late_connections_are_counted_in_bounded_memory() -> None:
    stats = RunStats()
    for _ in range(3):
        stats.retried_connects.setdefault(2, type(stats.seconds)()).add(1.0)
    assert summary_notes(stats) == ["connected late: 3 with 2 SYNs (1.000 s): packets are lost or late"]


@pytest_twisted.ensureDeferred
async def test_what_a_series_keeps_does_not_grow_with_the_records_of_a_hostile_server(peers: Any) -> None:
    number = iter(range(10**9))

    def say(connection: socket.socket) -> None:
        name = f"{next(number):08}"
        connection.sendall(record(name * 20, name * 20))

    target = peers.stream(say)
    stats, report = RunStats(), TextReport(TARGET, several=True)
    for probe in range(250):
        result = await greet(target)
        stats.add(result, [])
        report.probe(probe, result, [])
    assert len(stats.replicas) == 65
    assert len(report.said) <= 201


def fresh_records(connection: socket.socket, number: int) -> None:
    name = f"{number:010}"
    connection.sendall(record(name * 19, name * 19))


def long_records(connection: socket.socket, number: int) -> None:
    name = f"{number:010}"
    connection.sendall(record(name * 3000, name * 3000))


def fresh_greetings(connection: socket.socket, number: int) -> None:
    connection.sendall(f"{number:010}\n".encode() * 100)


@pytest.mark.parametrize("says", [fresh_records, long_records, fresh_greetings])
@pytest_twisted.ensureDeferred
async def test_a_series_keeps_no_more_however_long_it_is(
    peers: Any, says: Any, request: pytest.FixtureRequest
) -> None:
    kept: list[int] = []
    numbers = count()

    def say(connection: socket.socket) -> None:
        number = next(numbers)
        says(connection, number)
        if number in (220, 380):
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0])

    target = parse(peers.stream(say))
    plan = ProbePlan(Probe(target), Expectations(), TextReport(target, several=True), count=390, interval=0.0)
    request.addfinalizer(tracemalloc.stop)
    tracemalloc.start()
    with Path(os.devnull).open("w") as nowhere:
        await plan.run(Output(nowhere, nowhere), RunStats(), reactor, time.monotonic)
    assert kept[1] - kept[0] < 30_000, "bytes for 160 probes, each with at least 380 new ones"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1184.4, 3, "1184"),
        (999.7, 3, "1000"),
        (12.345, 3, "12.3"),
        (0.0, 3, "0"),
        (0.00001234, 3, "0.0000123"),
        (1_000_000, 6, "1000000"),
        (999_999.7, 6, "1000000"),
        (123.4567, 6, "123.457"),
    ],
)
def test_numbers_have_no_exponent(value: float, digits: int, text: str) -> None:
    assert decimal(value, digits) == text


def test_no_line_has_an_exponent() -> None:
    """Whatever is counted: a share of one in a million, or a time just below a second."""
    stats = RunStats(sent=1_200_000, greeted=1_199_999, requests=2_400_000, requests_lost=1, elapsed=60.0)
    stats.seconds.add(0.9997)
    stats.replicas.update({"a": 3_000_000, "b": 1})
    lines = TextReport(TARGET, several=True).end(stats).out
    lines += NagiosReport(TARGET, 5.0, None).end(stats).out + bars(stats.seconds, 80)
    assert len(lines) >= 8
    assert [line for line in lines if re.search(r"[0-9]e[-+][0-9]", line)] == []


INVISIBLE = ["\u3164", "\u115f", "\u2800", "\ufe0f", "\u034f", "\U000e0100", "\u202e", "\x1b[2J", "\u200b"]


@pytest.mark.parametrize(
    "options", [[], ["-c", "2", "-i", "0"], ["--nagios"], ["--json"], ["--expect", "^$"], ["-v"]], ids=" ".join
)
def test_no_invisible_character_reaches_a_terminal(peers: Any, options: list[str]) -> None:
    said = "".join(f"a{char}" for char in INVISIBLE)
    done = run(*options, peers.stream(lambda connection: connection.sendall(f"{said}\r\n".encode())))
    shown = (done.stdout + done.stderr).decode()
    assert "a" in shown
    assert [char for char in INVISIBLE if char[0] in shown] == []


def test_a_shortened_text_says_how_long_it_was() -> None:
    assert shortened("x" * 50, 50) == "x" * 50
    assert shortened("x" * 51, 50) == "x" * 33 + "… (51 characters)"
    assert len(shortened("x" * 1000, 300)) == 300
