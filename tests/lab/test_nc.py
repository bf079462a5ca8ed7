"""``nc`` and ``greet`` against the default listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Namespace

GREETING = b"Thank you for connecting\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_nc_prints_the_greeting_of_the_default_listeners(namespace: Namespace, host: str) -> None:
    namespace.twistd(listeners=4)
    over_tcp = namespace.run("nc", "-w", "5", host, "8088")
    assert (over_tcp.returncode, over_tcp.stdout) == (0, GREETING)
    over_udp = namespace.run("nc", "-u", "-w", "1", host, "8088", given=b"x")
    assert over_udp.stdout == GREETING


def test_greet_finds_the_default_listeners_without_being_told(namespace: Namespace) -> None:
    namespace.twistd(listeners=4)
    for target in ((), ("udp:127.0.0.1",), ("[::1]:8088",), ("udp:[::1]:8088",), ("-4", "localhost")):
        done = namespace.run("greet", *target)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"Thank you for connecting\n", b""), target


def test_without_ipv6_it_serves_ipv4_and_says_so(namespace: Namespace) -> None:
    namespace.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    server = namespace.twistd(listeners=2)
    assert "IPv6 does not work on this machine" in server.said()
    assert namespace.run("nc", "-w", "5", "127.0.0.1", "8088").stdout == GREETING


def test_a_second_server_on_the_default_ports_is_refused_in_one_line(namespace: Namespace) -> None:
    namespace.twistd(listeners=4)
    second = namespace.run("twistd", "-n", "--pidfile=", "greetsvc")
    assert (second.returncode, second.stdout) == (1, b"")
    assert second.stderr.startswith(b"greetsvc: the default tcp:8088: cannot listen on ")
    assert second.stderr.count(b"\n") == 1


@pytest.mark.parametrize("size", [1, 100_000])
def test_nc_that_sends_first_reads_the_whole_greeting(namespace: Namespace, size: int) -> None:
    namespace.twistd("--listen", "tcp:8088", "--greeting", "hello " * 100)
    done = namespace.run("nc", "-N", "-w", "5", "127.0.0.1", "8088", given=b"x" * size)
    assert done.stdout == b"hello " * 100
