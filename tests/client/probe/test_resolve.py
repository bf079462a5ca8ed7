"""From names to addresses, with a resolver that does what the test says."""

from __future__ import annotations

import errno
import socket
from threading import Event
from typing import Any

import pytest
import pytest_twisted

from greetsvc import GreetFailed, greet
from greetsvc.client.probe.resolve import SocketAddress
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
