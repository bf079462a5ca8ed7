"""Statistics of a run: counts, times, losses by flow, and the exit status that they earn. Pure."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from math import ceil, comb, log

from attrs import define, field, frozen

from greetsvc.client.basics import FLAWED, GREETED, NOT_GREETED
from greetsvc.client.evidence.direction import Direction
from greetsvc.client.evidence.handshake import UNKNOWN, Handshake
from greetsvc.client.matching import Matcher, MatchingFailed
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.words import decimal
from greetsvc.errors import ConfigError
from greetsvc.printable import one_line, without_line_end

__all__ = [
    "MAX_REPLICAS",
    "OTHER_REPLICAS",
    "Expectations",
    "FlowStats",
    "Histogram",
    "Jitter",
    "RunStats",
]

_GROWTH = math.log1p(2 * 0.0099 / (1 - 0.0099))
"""The logarithm of the ratio between bucket limits; slightly less than 1 % needs, which leaves room for rounding."""

_SHORTEST = 1e-9

MAX_CHANCE = 0.001
"""A flow is broken when chance explains its losses with less than this probability, over a whole run."""


class Histogram:
    """Durations in log buckets, with percentiles that are at most 1 % off; histograms can be merged.

    A bucket holds the durations between two powers of one ratio and stands for the point between them that is at most
    1 % from either (the DDSketch scheme). All histograms have the same buckets, so adding their counts merges them.
    Count, sum, least and greatest are exact. Durations below 1 ns count as 1 ns.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.greatest = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, *durations: float) -> None:
        """Count durations, in seconds: each costs a third when there are many in one call."""
        if not durations:
            return
        least = min(durations)
        if least < _SHORTEST:
            self.add(*(max(_SHORTEST, seconds) for seconds in durations))
            return
        self.count += len(durations)
        self.total += sum(durations)
        self.least = min(self.least, least)
        self.greatest = max(self.greatest, *durations)
        self._buckets.update([ceil(log(seconds) / _GROWTH) for seconds in durations])

    def merge(self, other: Histogram) -> None:
        """Add all that ``other`` has counted."""
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self._buckets.update(other._buckets)

    @property
    def mean(self) -> float | None:
        """The mean duration; None when nothing was counted."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The duration that ``percent`` of them do not exceed (nearest rank); None when nothing was counted."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for middle, count in self.buckets():
            seen += count
            if seen >= rank:
                return min(max(middle, self.least), self.greatest)
        return None

    def buckets(self) -> list[tuple[float, int]]:
        """The duration that each bucket stands for, in seconds, and its count, the shortest first."""
        return [
            (2 * math.exp(bucket * _GROWTH) / (1 + math.exp(_GROWTH)), self._buckets[bucket])
            for bucket in sorted(self._buckets)
        ]


class Jitter:
    """The mean absolute difference between the times of one greeting and the next.

    RFC 3550 (6.4.1) smooths the same differences with a gain of 1/16, which starts at zero and says little about a
    short run; this is their plain mean. A lost probe is left out: the next greeting is compared with the last one.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._total = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """Count the time of the next greeting."""
        if self._last is not None:
            self._total += abs(seconds - self._last)
            self._count += 1
        self._last = seconds

    @property
    def value(self) -> float | None:
        """Seconds; None before there are two greetings."""
        return self._total / self._count if self._count else None


@define
class FlowStats:
    """Losses by flow: the flows are numbered from 0 here, and from 1 in reports.

    ``directions`` are what is known of the directions of each flow, where that was measured.
    """

    ports: list[int]
    directions: list[Direction | None] = field(factory=list)
    sent: list[int] = field(init=False)
    lost: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sent = [0] * len(self.ports)
        self.lost = [0] * len(self.ports)

    def add(self, flow: int, result: Greeting | GreetFailed) -> None:
        """Count one probe of a flow, if it was sent."""
        if not (isinstance(result, GreetFailed) and result.never_sent):
            self.sent[flow] += 1
            self.lost[flow] += isinstance(result, GreetFailed)

    def broken(self) -> list[tuple[int, int, int]]:
        """Flows that lose more than chance explains: number, and lost and sent probes of the healthier flows.

        Any group of flows might have been the unlucky one, so all groups share the level.
        """
        found = []
        for flow, (sent, lost) in enumerate(zip(self.sent, self.lost, strict=True)):
            if not lost:
                continue
            others = {at for at, total in enumerate(self.sent) if total and self.lost[at] / total < lost / sent / 2}
            others_lost, others_sent = sum(self.lost[at] for at in others), sum(self.sent[at] for at in others)
            group_lost, group_sent = sum(self.lost) - others_lost, sum(self.sent) - others_sent
            groups = comb(len(self.ports), len(others)) * len(self.ports)
            if (
                others
                and chance(lost, sent, others_lost, others_sent) < MAX_CHANCE
                and chance(group_lost, group_sent, others_lost, others_sent) * groups < MAX_CHANCE
            ):
                found.append((flow, others_lost, others_sent))
        return found


def chance(lost: int, sent: int, others_lost: int, others_sent: int) -> float:
    """The probability that at least this many of all losses fall on these probes by chance (Fisher's exact test)."""
    total, losses = sent + others_sent, lost + others_lost
    least = max(lost, losses - others_sent)
    ways = [_log_comb(losses, k) + _log_comb(total - losses, sent - k) for k in range(least, min(losses, sent) + 1)]
    return sum(math.exp(way - _log_comb(total, sent)) for way in ways)


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


MAX_REPLICAS = 64
"""Server instances that are counted by name; the server chooses the names."""
OTHER_REPLICAS = "others"


@frozen
class Expectations:
    """What makes a greeting flawed: it does not match ``expect``, or took more than ``warn`` seconds."""

    expect: re.Pattern[str] | None = None
    warn: float | None = None
    _matcher: Matcher | None = field(init=False, eq=False, repr=False)

    @_matcher.default
    def _make_matcher(self) -> Matcher | None:
        return None if self.expect is None else Matcher(self.expect)

    @classmethod
    def of(cls, expect: str | re.Pattern[str] | None, warn: float | None) -> Expectations:
        """The same with a pattern that is not yet compiled.

        :raises ConfigError: when it is not a regular expression.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are about the sets of a later Python
                return cls(None if expect is None else re.compile(expect), warn)
        except (re.error, OverflowError, RecursionError, ValueError) as error:
            raise ConfigError(f"is not a regular expression: {error}", name="expect", value=expect) from None

    def mismatch(self, text: str, seconds: float) -> str:
        """Why the text of a greeting is not as expected; empty when it is. The line end at its end does not count.

        Matching may take about ``seconds`` (`Matcher.matches`).
        """
        if self.expect is None or self._matcher is None:
            return ""
        try:
            found = self._matcher.matches(without_line_end(text), seconds)
        except MatchingFailed as failed:
            return f"not as expected: {failed}"
        except OSError as error:
            return f"whether it is as expected is not known: this host cannot match it: {error.strerror or error}"
        return "" if found else f"not as expected: nothing matches {one_line(self.expect.pattern)}"

    def flaws(self, greeting: Greeting, seconds: float = 1.0) -> list[str]:
        """What is wrong with a greeting that came, a line each; matching may take about ``seconds``."""
        found = [greeting.cut_short] if greeting.cut_short else []
        if mismatch := self.mismatch(greeting.said, seconds):
            found.append(mismatch)
        if self.warn is not None and greeting.seconds.total > self.warn:
            found.append(f"slow: {greeting.seconds.total * 1000:.3f} ms, more than {self.warn * 1000:.10g} ms")
        return found


@define
class RunStats:
    """Counts over a run. ``elapsed`` is its length so far, in seconds.

    ``replicas`` counts the greetings of each server instance, the first 64 by name; ``retried_connects`` has the
    seconds to connect of those connections that took more than one SYN, by the number of SYNs; ``flows`` are the
    losses by flow, where there are several. ``seconds`` and ``jitter`` have what each greeting `took`. ``requests``
    counts datagram requests, of which a probe may send several, and ``requests_lost`` those without an answer.
    ``direction`` says which way they were lost; where that is not known, ``unmeasured`` says why, in words.
    ``handshakes`` are the sums of what was lost of TCP handshakes, and ``unexplained`` counts those of which it is
    not known. ``round_trips`` has how long the messages of talking probes took, each to its reply.
    """

    sent: int = 0
    greeted: int = 0
    flawed: int = 0
    elapsed: float = 0.0
    seconds: Histogram = field(factory=Histogram)
    replicas: Counter[str] = field(factory=Counter)
    retried_connects: dict[int, Histogram] = field(factory=dict)
    flows: FlowStats | None = None
    jitter: Jitter = field(factory=Jitter)
    requests: int = 0
    requests_lost: int = 0
    direction: Direction | None = None
    unmeasured: str = ""
    round_trips: Histogram = field(factory=Histogram)
    handshakes: Handshake = UNKNOWN
    unexplained: int = 0

    @property
    def lost(self) -> int:
        """Probes that were not greeted."""
        return self.sent - self.greeted

    @property
    def repeats(self) -> str:
        """How many requests were sent and lost, in words; empty when each probe sent one."""
        if self.requests <= self.sent:
            return ""
        share = 100 * self.requests_lost / self.requests
        return f"{self.requests} requests sent, {self.requests_lost} lost ({decimal(share)} %)"

    @property
    def rate(self) -> float:
        """Greetings per second."""
        return self.greeted / self.elapsed if self.elapsed > 0 else 0.0

    def add(self, result: Greeting | GreetFailed, flaws: list[str]) -> None:
        """Count one probe."""
        self.sent += 1
        self.requests += len(result.attempts)
        self.requests_lost += result.requests_lost
        if result.talk is not None:
            self.round_trips.add(*(trip.seconds for trip in result.talk.round_trips))
        if isinstance(result, GreetFailed):
            return
        self.greeted += 1
        self.flawed += bool(flaws)
        if result.took is not None:
            self.seconds.add(result.took)
            self.jitter.add(result.took)
        if result.path is not None:
            name = result.path.instance
            self.replicas[name if name in self.replicas or len(self.replicas) < MAX_REPLICAS else OTHER_REPLICAS] += 1
        self.handshakes += result.handshake
        self.unexplained += bool(result.handshake.words) and result.handshake.syn_lost is None
        syns = result.sent.syns if result.sent else None
        if syns is not None and syns > 1:
            self.retried_connects.setdefault(syns, Histogram()).add(result.seconds.connect or 0.0)

    @property
    def status(self) -> int:
        """The exit status: 0 greeted, 1 greeted with a flaw or a loss, 2 not greeted."""
        if not self.greeted:
            return NOT_GREETED
        return FLAWED if self.lost or self.flawed else GREETED
