"""The largest packet that passes: a search by bisection that lost packets cannot mislead, and what it found. Pure."""

from __future__ import annotations

from typing import Any, Literal

from attrs import define, field, frozen

__all__ = ["Mtu", "SizeSearch", "TooLong", "Way"]

Bound = Literal["least", "most"]

_CERTAIN = 3
"""How often a size must fail in silence, where two packets are sent each time."""


@frozen
class TooLong:
    """Why a packet did not pass: ``mtu`` bytes are what passes, says the host ``by``.

    ``by`` is None when this host says it: its own link takes no more. Both are None when nothing said anything.
    """

    mtu: int | None = None
    by: str | None = None


@define
class SizeSearch:
    """The search for the largest size from ``least``, which is known to pass, to ``most``.

    A packet that is lost by chance looks like one that is too long. So a size that failed in silence is asked again
    when the search comes to an end just below it, until it has failed three times; where it passes then, the
    search goes on above it.
    """

    least: int
    most: int
    failures: dict[int, TooLong] = field(factory=dict)
    silences: dict[int, int] = field(factory=dict)
    """How often a size has failed."""

    @property
    def above(self) -> int:
        """The least size that did not pass; ``most`` and 1 where all did so far."""
        return min(self.failures, default=self.most + 1)

    @property
    def reason(self) -> TooLong | None:
        """Why what is longer than ``least`` does not pass; None where nothing longer was to be tried."""
        told = [why for why in self.failures.values() if why.mtu == self.least]
        return told[0] if told else self.failures.get(self.above)

    def next(self) -> int | None:
        """The size to try next; None when the answer is known."""
        if self.least == self.most:
            return None
        if not self.failures:
            return self.most
        above = self.above
        # What a router names is most likely right; that more does not pass it has to show.
        named = {size for why in self.failures.values() if why.mtu for size in (why.mtu, why.mtu + 1)}
        if hints := [size for size in named if self.least < size < above]:
            return min(hints)
        if above - self.least > 1:
            return (self.least + above) // 2
        silent = self.failures[above].mtu is None and self.reason is not None and self.reason.mtu is None
        return above if silent and self.silences[above] < _CERTAIN else None

    def passes(self, size: int) -> None:
        """A packet of this size has passed."""
        self.least = max(self.least, size)
        self.failures = {failed: why for failed, why in self.failures.items() if failed > size}

    def fails(self, size: int, why: TooLong) -> None:
        """A packet of this size has not passed."""
        self.failures[size] = why
        self.silences[size] = self.silences.get(size, 0) + 1


@frozen
class Way:
    """The largest IP packet of one direction, in bytes; None where it is not known.

    ``bound`` says that it is no more than a limit: at ``least`` so many pass, or at ``most``. ``words`` say why.
    """

    mtu: int | None = None
    words: str = ""
    bound: Bound | None = None

    def line(self, name: str) -> str:
        """The direction for people."""
        if self.mtu is None:
            return f"{name}: not known: {self.words}"
        limit = f"at {self.bound} " if self.bound else ""
        return f"{name}: {limit}{self.mtu} bytes" + (f"; {self.words}" if self.words else "")


@frozen
class Mtu:
    """The largest IP packets there and back, and what happens to longer ones on the way there.

    ``icmp_from`` is the router that said "fragmentation needed" or "packet too big". ``black_hole``: they are lost
    and nothing says so; None where it is not known.
    """

    there: Way
    back: Way
    icmp_from: str | None = None
    black_hole: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --mtu --json` gives; ``bound`` only where a number is a limit."""
        ways = {"there": self.there, "back": self.back}
        found: dict[str, Any] = {name: way.mtu for name, way in ways.items()}
        found |= {"icmp_from": self.icmp_from, "black_hole": self.black_hole}
        if bounds := {name: way.bound for name, way in ways.items() if way.bound}:
            found["bound"] = bounds
        return {"mtu": found}
