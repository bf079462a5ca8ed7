"""How much datagrams with forged sources make us send to their victims, and whom they silence."""

from __future__ import annotations

import itertools
import random
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.forger import BUDGET, BURST, HEADERS, PREFIXES, Forger, attack, one_prefix, start
from tests.support.service import bind_beside

NOISE = 12_000


def test_one_prefix_gets_no_more_than_its_burst_and_its_budget(child: Any) -> None:
    took, drawn, honest = attack(start(child), one_prefix(NOISE))
    assert BURST * 0.9 < drawn <= BURST + BUDGET * took
    assert honest.answered == honest.asked > 0


def anywhere() -> Iterator[str]:
    chance = random.Random(1)
    while True:
        yield f"127.{chance.randrange(1, 200)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"


def one_network() -> Iterator[str]:
    """256 prefixes of one IPv4 /16, in turn."""
    return (f"127.7.{number % 256}.{number // 256 % 254 + 1}" for number in itertools.count())


def hundred_prefixes() -> Iterator[str]:
    """The same 100 prefixes of 100 networks, in turn."""
    return (f"127.{number % 100 + 1}.3.{number // 100 % 254 + 1}" for number in itertools.count())


@pytest.mark.parametrize(("sources", "lost"), [(anywhere, 1), (one_network, 0), (hundred_prefixes, 0)])
def test_a_flood_without_the_mark_does_not_silence_a_person_without_the_mark(
    child: Any, sources: Any, lost: int
) -> None:
    """The flood asks for six times the total. The person asks twelve times meanwhile, as with ``nc -u``.

    Sixteen times the default budget lets sixteen seconds pass in one. One service in a hundred puts the person beside
    the flood in a table, by chance: then another one is asked.
    """
    assert answers_during(child, sources) >= 12 - lost or answers_during(child, sources) >= 12 - lost


def answers_during(child: Any, sources: Any) -> int:
    """How many of the twelve are answered."""
    budget, greeting = 16 * BUDGET, "x" * 480
    server = child(
        "--listen",
        "udp:0:interface=127.0.0.1",
        "--log-visits",
        "off",
        "--greeting",
        greeting,
        "--udp-budget",
        str(budget),
    )
    (port,) = server.ports()
    forger, source = Forger(port), sources()
    total = PREFIXES * 4 * budget // (len(greeting) + HEADERS)
    answers, took = 0, 0.0
    with forger.sock:
        took += forger.flood(itertools.islice(source, 3 * total))
        for _ in range(12):
            took += forger.flood(itertools.islice(source, total // 4))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as person:
                bind_beside(person, "127.200.0.1", port)
                person.sendto(b"hello", ("127.0.0.1", port))
                took += forger.flood([])  # returns when the service has read all there was before
                try:
                    answers += bool(person.recv(2000, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    continue
    sys.stdout.write(f"{answers} of 12 answered, {forger.bytes} bytes drawn in {took:.2f} s\n")
    assert forger.bytes <= PREFIXES * budget * (4 + took)
    return answers
