"""Answers may not become half of a loop (CVE-2024-2169)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater

from greetsvc import wire
from tests.support.waiting import until

MOST = 8
GREETING = "x" * 25


def seconds(number: float) -> Any:
    """Let the reactor run for so many seconds."""
    return deferLater(reactor, number, lambda: None)


async def quiet(counts: Callable[[], object]) -> None:
    """Let the reactor run until nothing is counted any more for three times as long as any answerer waits."""
    before = None
    while before != (before := counts()):
        await seconds(0.3)


class Answerer(DatagramProtocol):
    """Sends the same answer to every datagram."""

    noisy = False

    def __init__(self, answer: bytes | None, delay: float) -> None:
        self.answer = answer
        self.delay = delay
        self.heard = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard += 1
        answer = datagram if self.answer is None else self.answer
        reactor.callLater(self.delay, self.say, answer, addr)

    def say(self, answer: bytes, to: Any) -> None:
        if self.transport is not None:
            self.transport.write(answer, to)


@pytest.fixture
def answerer() -> Iterator[Any]:
    ports = []

    def start(answer: bytes | None, delay: float, host: str) -> Answerer:
        protocol = Answerer(answer, delay)
        ports.append(cast(IReactorUDP, reactor).listenUDP(0, protocol, interface=host, maxPacketSize=8192))
        return protocol

    yield start
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


@pytest_twisted.ensureDeferred
async def test_a_loop_with_a_constant_answerer_ends_after_8_answers(serve: Any, answerer: Any) -> None:
    """Whether its answer is shorter than ours, as long, longer, empty or an echo, at once or after 100 ms."""
    servers = [serve("udp:0:interface=127.0.0.1", greeting=greeting) for greeting in (GREETING, "", "z" * 480)]
    answers = (b"", b"short", b"y" * 25, b"w" * 600, None)
    loops = [
        (answerer(answer, delay, f"127.0.{number}.1"), server)
        for number, (server, answer, delay) in enumerate(product(servers, answers, (0, 0.1)), 1)
    ]
    for loop, server in loops:
        loop.say(b"the forged datagram", ("127.0.0.1", server.ports[0]))
    await quiet(lambda: [loop.heard for loop, _ in loops])
    counts = [loop.heard for loop, _ in loops]
    assert max(counts) <= MOST
    assert all(counts)
    for loop, server in loops:
        loop.say(b"the forged datagram", ("127.0.0.1", server.ports[0]))
    await seconds(0.3)
    assert [loop.heard for loop, _ in loops] == counts
    assert sum(server.ledger.greeted["udp"] for server in servers) == sum(counts)


class Hopper(DatagramProtocol):
    """Sends each answer from a new port, which then listens as well."""

    noisy = False
    transport: Any

    def __init__(self, ports: list[Any]) -> None:
        self.ports = ports

    def hop(self, to: Any) -> None:
        hopper = Hopper(self.ports)
        port = cast(IReactorUDP, reactor).listenUDP(0, hopper, interface="127.0.9.1", maxPacketSize=8192)
        self.ports.append(port)
        hopper.transport.write(b"once more", to)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.hop(addr)


@pytest_twisted.ensureDeferred
async def test_a_loop_with_an_answerer_that_changes_its_port_ends(serve: Any) -> None:
    server = serve("udp:0:interface=127.0.0.1", greeting="")
    ports: list[Any] = []
    try:
        Hopper(ports).hop(("127.0.0.1", server.ports[0]))
        await server.until_refused("loop", 1)
        assert server.ledger.visits == 64
        await seconds(1)
        assert len(ports) == 65
        Hopper(ports).hop(("127.0.0.1", server.ports[0]))
        await until(lambda: server.ledger.visits > 64, "the address stays silenced")
    finally:
        for port in ports:
            port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_loop_between_two_greetsvc_ends_after_8_answers_of_each(serve: Any) -> None:
    pairs = [
        (
            serve("udp:0:interface=127.0.0.1", greeting=greeting),
            serve(f"udp:0:interface=127.0.{number}.1", greeting=greeting + "y" * number),
        )
        for number, greeting in enumerate((GREETING, "", ""))
    ]
    for one, two in pairs:
        two.send(b"the forged datagram", ("127.0.0.1", one.ports[0]))
    await quiet(lambda: [(one.ledger.greeted["udp"], two.ledger.greeted["udp"]) for one, two in pairs])
    answers = [(one.ledger.greeted["udp"], two.ledger.greeted["udp"]) for one, two in pairs]
    assert all(1 <= max(each) <= MOST for each in answers)
    for one, two in pairs:
        two.send(b"the forged datagram", ("127.0.0.1", one.ports[0]))
    await seconds(0.2)
    assert [(one.ledger.greeted["udp"], two.ledger.greeted["udp"]) for one, two in pairs] == answers


@pytest_twisted.ensureDeferred
async def test_two_greetsvc_on_the_same_port_do_not_answer_each_other(serve: Any) -> None:
    one = serve("udp:0:interface=127.0.0.1")
    two = serve(f"udp:{one.ports[0]}:interface=127.0.1.1")
    two.send(b"the forged datagram", ("127.0.0.1", one.ports[0]))
    await until(lambda: one.ledger.refused["own-port"] == 1)
    assert not one.ledger.visits
    assert not two.ledger.visits


@pytest_twisted.ensureDeferred
async def test_an_echo_of_a_marked_request_does_not_loop(serve: Any, answerer: Any) -> None:
    """A free answer to an echo service comes back without the mark."""
    ours = serve("udp:0:interface=127.0.0.1")
    echo = answerer(None, 0, "127.0.3.1")
    echo.say(wire.request("0" * 16, 1200), ("127.0.0.1", ours.ports[0]))
    await seconds(0.3)
    assert echo.heard <= 1 + MOST


@pytest_twisted.ensureDeferred
async def test_a_unix_path_that_becomes_a_link_to_us_does_not_loop(serve: Any, tmp_path: Path) -> None:
    """The owner of a socket's folder can make its path a link to anywhere before we answer."""
    ours = serve(f"unixgram:{tmp_path / 'ours'}")
    other = serve(f"unixgram:{tmp_path / 'other'}")
    for target in ("ours", "other"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as forger:
            name = tmp_path / f"forged-{target}"
            forger.bind(str(name))
            name.unlink()
            name.symlink_to(tmp_path / target)
            forger.sendto(b"hello", str(tmp_path / "ours"))
    await seconds(0.2)
    answers = ours.ledger.visits, other.ledger.visits
    assert max(answers) <= 2 * MOST + 2
    await seconds(0.1)
    assert (ours.ledger.visits, other.ledger.visits) == answers
