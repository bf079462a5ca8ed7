"""From names to addresses, with a resolver that does what the test says."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from greetsvc import GreetFailed, greet
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.report.causes import likely_cause
from greetsvc.visit import Address


class Resolver:
    """Stands in for getaddrinfo; numbers are still read by the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lookups: list[tuple[Any, ...]] = []
        self.answer: list[str] | OSError = []
        self.silent: Event | None = None
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST or host[0].isdigit():
            return self._real(host, port, family, kind, proto, flags)
        self.lookups.append((host, family))
        if self.silent is not None:
            self.silent.wait(10)
        if isinstance(self.answer, OSError):
            raise self.answer
        return [found for address in self.answer for found in self._real(address, port, 0, kind)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


async def failure(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await greet(target, **options)
    return caught.value


@pytest.mark.parametrize("transport", ["tcp", "udp", "tls"])
@pytest_twisted.ensureDeferred
async def test_a_failure_says_which_address_was_asked_and_which_were_not(
    free_port: int, resolver: Resolver, transport: str
) -> None:
    from greetsvc.client.report.json_lines import JsonReport
    from greetsvc.client.target import parse

    target = f"{transport}:greet.test:{free_port}"
    resolver.answer = ["127.0.0.1"]
    failed = await failure(target)
    assert str(failed).endswith(f"(asked 127.0.0.1:{free_port})")
    resolver.answer = ["::1", "127.0.0.1"]
    failed = await failure(target)
    told = f"asked [::1]:{free_port}, the first of 2 addresses; not asked: 127.0.0.1:{free_port}"
    assert str(failed).endswith(f" ({told})")
    assert told in JsonReport(parse(target), several=False).probe(1, failed, []).out[0]
    resolver.answer = [f"127.0.0.{number}" for number in range(1, 9)]
    failed = await failure(target)
    assert str(failed).endswith(f", 127.0.0.4:{free_port} and 4 more)")
    assert (await failure(f"{transport}:127.0.0.1:{free_port}")).asked == ""


@pytest.mark.parametrize(
    ("family", "has", "words"),
    [
        (6, "192.0.2.1", "the name has no IPv6 address, only IPv4: 192.0.2.1"),
        (4, "2001:db8::1", "the name has no IPv4 address, only IPv6: 2001:db8::1"),
    ],
)
@pytest.mark.parametrize("code", ["EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY"])
@pytest_twisted.ensureDeferred
async def test_a_name_of_the_other_family_is_not_mistyped(
    monkeypatch: pytest.MonkeyPatch, family: Any, has: str, words: str, code: str
) -> None:
    real = socket.getaddrinfo

    def published(host: str, port: int, wanted: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST or host != "greet.test":
            return real(host, port, wanted, kind, proto, flags)
        if wanted:
            raise socket.gaierror(getattr(socket, code), "no such name")
        return real(has, port, 0, kind)

    monkeypatch.setattr(socket, "getaddrinfo", published)
    failed = await failure("greet.test", family=family)
    assert (failed.errno, failed.phase, failed.strerror) == (errno.ENOENT, "resolve", words)
    assert likely_cause(failed) == (
        "likely: the name is published for the other address family only: leave out -4 and -6",
    )


@pytest_twisted.ensureDeferred
async def test_only_the_first_address_in_the_systems_order_is_probed(
    peers: Any, free_port: int, resolver: Resolver
) -> None:
    port = peers.stream(lambda connection: connection.sendall(b"hi")).rpartition(":")[2]
    resolver.answer = ["127.0.0.1", "127.0.0.2"]
    traced: list[str] = []
    greeting = await greet(f"greet.test:{port}", trace=traced.append)
    assert greeting.peer.host == "127.0.0.1"
    assert greeting.seconds.resolve is not None
    assert traced[:2] == ["* resolving greet.test", "* greet.test is 127.0.0.1, the first of 2"]
    resolver.answer = ["127.0.0.2", "127.0.0.1"]
    failed = await failure(f"greet.test:{port}")
    assert (failed.errno, failed.phase, failed.peer) == (
        errno.ECONNREFUSED,
        "connect",
        Address("127.0.0.2", int(port)),
    )


@pytest_twisted.ensureDeferred
async def test_the_requested_family_is_passed_to_the_resolver(free_port: int, resolver: Resolver) -> None:
    resolver.answer = ["127.0.0.1"]
    await failure(f"greet.test:{free_port}", family=4)
    await failure(f"greet.test:{free_port}")
    assert [family for _, family in resolver.lookups] == [socket.AF_INET, socket.AF_UNSPEC]


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), errno.ENOENT, "Name or service not known"),
        (socket.gaierror(socket.EAI_AGAIN, "Try again"), errno.EAGAIN, "Try again"),
        (socket.gaierror(socket.EAI_FAIL, "It failed"), errno.EAGAIN, "It failed"),
        (socket.gaierror(socket.EAI_FAIL), errno.EAGAIN, "the look-up failed"),
        (OSError(errno.ENETUNREACH, "x"), errno.ENETUNREACH, "Network is unreachable"),
        (OSError("odd"), errno.EIO, "odd"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_error_of_the_resolver_is_an_errno_and_words_at_resolve(
    resolver: Resolver, error: OSError, number: int, words: str
) -> None:
    resolver.answer = error
    failed = await failure("greet.test")
    assert (failed.errno, failed.phase, failed.strerror, failed.peer) == (number, "resolve", words, None)


@pytest_twisted.ensureDeferred
async def test_a_dead_resolver_times_out_at_resolve(resolver: Resolver) -> None:
    resolver.silent = Event()
    resolver.answer = ["127.0.0.1"]
    failed = await failure("udp:greet.test", timeout=0.1)
    assert (failed.errno, failed.phase) == (errno.ETIMEDOUT, "resolve")
    resolver.silent.set()


def look_ups() -> int:
    return sum(thread.name == "greet-resolver" for thread in threading.enumerate())


@pytest_twisted.ensureDeferred
async def test_while_a_look_up_of_a_name_is_in_flight_its_answer_is_for_all(
    free_port: int, resolver: Resolver
) -> None:
    resolver.silent = Event()
    resolver.answer = ["127.0.0.1"]
    for _ in range(5):
        assert (await failure(f"shared.test:{free_port}", timeout=0.02)).phase == "resolve"
    waiting = [Deferred.fromCoroutine(failure(f"shared.test:{free_port}", timeout=20)) for _ in range(3)]
    assert (len(resolver.lookups), look_ups()) == (1, 1)
    resolver.silent.set()
    for each in waiting:
        assert (await each).phase == "connect"
    resolver.silent = None
    assert (await failure(f"shared.test:{free_port}")).phase == "connect"
    assert len(resolver.lookups) == 2, "what was answered is not kept: addresses change"


@pytest_twisted.ensureDeferred
async def test_its_failure_is_for_all_too_and_each_name_has_a_look_up_of_its_own(resolver: Resolver) -> None:
    resolver.silent = Event()
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "Try again")
    names = ("one.test", "two.test", "one.test", "udp:one.test", "two.test")
    waiting = [Deferred.fromCoroutine(failure(name, timeout=20)) for name in names]
    assert sorted(resolver.lookups) == [("one.test", 0), ("one.test", 0), ("two.test", 0)]
    resolver.silent.set()
    assert [(await each).strerror for each in waiting] == ["Try again"] * 5


@pytest_twisted.ensureDeferred
async def test_a_cancelled_probe_leaves_the_look_up_to_the_others(free_port: int, resolver: Resolver) -> None:
    resolver.silent = Event()
    resolver.answer = ["127.0.0.1"]
    first = Deferred.fromCoroutine(greet(f"cancelled.test:{free_port}", timeout=20))
    second = Deferred.fromCoroutine(failure(f"cancelled.test:{free_port}", timeout=20))
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    resolver.silent.set()
    assert (await second).phase == "connect"
    assert len(resolver.lookups) == 1


@pytest_twisted.ensureDeferred
async def test_a_thread_that_the_system_does_not_give_is_a_failure_of_this_host(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    failed = await failure("greet.test")
    assert (failed.errno, failed.phase) == (errno.EAGAIN, "resolve")
    assert failed.strerror == "this host cannot start another thread"
    assert "too many threads" in likely_cause(failed)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest_twisted.ensureDeferred
async def test_a_resolver_without_a_descriptor_is_a_failure_of_this_host(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    monkeypatch.setattr(os, "open", refuse)
    failed = await failure("greet.test")
    monkeypatch.undo()
    assert (failed.errno, failed.phase) == (errno.EMFILE, "resolve")
    assert "raise its limit (ulimit -n)" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_an_address_never_goes_to_the_resolver(free_port: int, resolver: Resolver) -> None:
    await failure(f"127.0.0.1:{free_port}")
    await failure(f"[::1]:{free_port}")
    assert resolver.lookups == []


@pytest_twisted.ensureDeferred
async def test_a_zone_that_is_no_interface_is_a_failure_at_resolve() -> None:
    assert (await failure("[fe80::1%nope]")).phase == "resolve"


def test_a_link_local_address_keeps_its_zone() -> None:
    assert SocketAddress(socket.AF_INET6, ("fe80::1", 7, 0, 3)).address == Address("fe80::1%3", 7)
    assert SocketAddress(socket.AF_INET6, ("::1", 7, 0, 0)).address == Address("::1", 7)
