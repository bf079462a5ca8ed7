"""The promises about speed, and whether a run keeps them. Pure."""

from __future__ import annotations

from attrs import frozen

from bench.peers import (
    EMPTY,
    FLOOR,
    GREETSVC,
    GREETSVC_NET,
    GREETSVC_WILDCARD,
    HEALTH_CHECK,
    LINGERING,
    MEASURED,
    REACTOR,
    STOCK,
    STOCK_WILDCARD,
    TWO_WORKERS,
    UVLOOP,
    WATCHED,
)
from bench.plan import AT_RATE, MANY, ONE_ADDRESS, STEADY, name_of
from bench.results import Results
from bench.sample import Spread


@frozen
class Gate:
    """One promise. ``measured`` is None when one of its two sides was not measured."""

    words: str
    at_most: float
    measured: Spread | None

    @property
    def kept(self) -> bool | None:
        """Whether the median is within the bound; None when nobody knows."""
        return None if self.measured is None else self.measured.median <= self.at_most

    @property
    def verdict(self) -> str:
        """The same as a word."""
        return {True: "pass", False: "FAIL", None: "not measured"}[self.kept]


def gates(results: Results) -> list[Gate]:
    """All promises."""
    steady, many = name_of(STEADY), name_of(MANY)

    def tcp(under: str) -> Spread | None:
        return results.ratio("tcp", GREETSVC, under, steady)

    def udp(over: str, under: str) -> Spread | None:
        return results.ratio("udp", over, under, steady)

    load = results.load_ratios(ONE_ADDRESS)
    ends = [
        gate
        for scenario in (name_of(1), AT_RATE)
        for transport, other in (("tcp", UVLOOP), ("udp", STOCK))
        for gate in (
            Gate(
                f"{transport.upper()}, {scenario}: CPU per greeting / {other}",
                1.0,
                results.ratio(transport, GREETSVC, other, scenario),
            ),
            Gate(
                f"{transport.upper()}, {scenario}: p50 / {other}",
                1.0,
                results.p50_ratio(transport, GREETSVC, other, scenario),
            ),
        )
    ]

    return [
        Gate("TCP server CPU per greeting / stock Twisted without linger", 0.60, tcp(STOCK)),
        Gate("TCP, the same / uvloop without linger", 0.85, tcp(UVLOOP)),
        Gate("TCP, the same / C floor", 1.20, tcp(FLOOR)),
        Gate(
            "TCP, watched by 200 on the admin site / not watched",
            1.05,
            results.ratio("tcp", WATCHED, GREETSVC, steady),
        ),
        Gate(
            f"TCP, {AT_RATE}: p99, watched by 200 / not watched",
            1.20,
            results.p99_ratio("tcp", WATCHED, GREETSVC, AT_RATE),
        ),
        Gate("TCP, two workers / one process", 1.10, results.ratio("tcp", TWO_WORKERS, GREETSVC, steady)),
        Gate("UDP, two workers / one process", 1.10, results.ratio("udp", TWO_WORKERS, GREETSVC, steady)),
        Gate(
            "TCP greetings a second, one process / two workers with a core each",
            round(1 / 1.8, 3),
            results.rate_ratio("tcp", GREETSVC, TWO_WORKERS, steady) if results.workers_apart else None,
        ),
        Gate(
            "UDP server CPU per free answer, specific address / stock Twisted with no rule",
            0.70,
            udp(GREETSVC, STOCK),
        ),
        Gate("UDP, the same / uvloop with no rule", 0.75, udp(GREETSVC, UVLOOP)),
        Gate("UDP, the same / C floor", 1.14, udp(GREETSVC, FLOOR)),
        Gate("UDP, measured answer / free answer", 1.5, udp(MEASURED, GREETSVC)),
        Gate("UDP, wildcard / stock Twisted's (wrong source)", 0.95, udp(GREETSVC_WILDCARD, STOCK_WILDCARD)),
        Gate(
            "Memory per held connection, the same Protocol / stock Twisted",
            1.0,
            results.memory_ratio(GREETSVC_NET, STOCK),
        ),
        Gate(
            "Memory per lingering connection, as shipped / stock Twisted", 1.0, results.memory_ratio(LINGERING, STOCK)
        ),
        *ends,
        Gate(f"{STEADY} to {MANY:,} peers, CPU per greeting", 1.3, results.growth("tcp", GREETSVC, steady, many)),
        Gate("Ready to greet / bare `twistd -n` with an empty service", 1.25, results.start_ratio(GREETSVC, EMPTY)),
        Gate(f"CPU of {HEALTH_CHECK} / of {REACTOR}", 0.35, results.command_ratio(HEALTH_CHECK, REACTOR)),
        Gate("Greetings a second of the generator in C / of `greet` under load", 2.0, _inverse(load["rate"])),
        Gate("p50 of `greet` under load, apart from the generator's in C", 0.10, _apart(load["p50"])),
        Gate("p99, the same", 0.20, _apart(load["p99"])),
    ]


def _inverse(ratio: Spread | None) -> Spread | None:
    return ratio and Spread(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)


def _apart(ratio: Spread | None) -> Spread | None:
    """How far a ratio is from 1: its median, and the nearest and the farthest that it can have been."""
    if ratio is None:
        return None
    low, high = sorted((abs(ratio.low - 1), abs(ratio.high - 1)))
    return Spread(abs(ratio.median - 1), 0.0 if ratio.low <= 1 <= ratio.high else low, high)
