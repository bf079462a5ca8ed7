"""What is measured in one round, and for how long. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

MANY = 10_000
STEADY = 64
SOURCES = 250
"""Source addresses that peers come from, so that ports do not run out."""

MAIN = 0.8
"""The longest window, that of the figures the promises are about, in seconds."""


@frozen(kw_only=True)
class Scenario:
    """What the load generator does in one turn. Times in seconds.

    ``rate`` 0 is a closed loop: each of the ``peers`` begins a new visit when the last one ended. Otherwise so many
    visits begin each second, however slow the server is, and latency counts from the time they should have begun.
    ``stay``: a greeted TCP peer keeps its end open for so long. ``sources``: how many addresses
    they come from. ``only``: the servers that take part; empty: all. ``times``: how often in a round it
    goes round them.
    """

    name: str
    peers: int
    seconds: float
    warm: float
    rate: float = 0
    stay: float = 0
    sources: int = SOURCES
    only: Sequence[str] = ()
    times: int = 1


def closed_loop(peers: int, seconds: float, warm: float) -> Scenario:
    """So many peers, each again and again."""
    return Scenario(name=name_of(peers), peers=peers, seconds=seconds, warm=warm)


def name_of(peers: int) -> str:
    """The name of the closed loop with so many peers."""
    return f"{peers} peer" if peers == 1 else f"{peers} peers"


AT_RATE = "fixed rate"
ONE_ADDRESS = f"{STEADY} peers, one source address"
STAYING = "10000 peers that stay 0.5 s"


@frozen(kw_only=True)
class Plan:
    """One whole run."""

    rounds: int
    tcp: Sequence[Scenario]
    udp: Sequence[Scenario]
    held: int

    @classmethod
    def of(cls, rounds: int, scale: float, staying: Sequence[str], compared: Sequence[str]) -> Plan:
        """``scale`` stretches the measured windows; with 1, five rounds take about ten minutes.

        Thousands of peers come and go in waves, and a window shorter than some of these would measure a part of one:
        theirs stay as they are.
        """

        def loop(peers: int, seconds: float, warm: float) -> Scenario:
            return closed_loop(peers, seconds * scale, warm)

        rate = Scenario(name=AT_RATE, peers=2000, seconds=0.5 * scale, warm=0.1, rate=5000)
        stay = Scenario(name=STAYING, peers=MANY, seconds=1.0, warm=1.5, stay=0.5, only=staying)
        # Most promises are about this one, and a second of a shared machine may be a bad one.
        steady = evolve(loop(STEADY, MAIN, 0.15), times=3)
        # As `greet` comes.
        alone = evolve(steady, name=ONE_ADDRESS, sources=1, only=compared)
        return cls(
            rounds=rounds,
            tcp=[
                loop(1, 0.3, 0.1),
                steady,
                loop(512, 0.3, 0.1),
                closed_loop(4096, 0.6, 0.3),
                closed_loop(MANY, 1.2, 0.8),
                rate,
                stay,
                alone,
            ],
            udp=[loop(1, 0.25, 0.1), steady, loop(MANY, 0.3, 0.1), rate],
            held=5000,
        )
