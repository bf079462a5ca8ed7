"""Loss by direction: what became of the requests of a run on the way there, and of the answers on the way back. Pure.

The far end counts what arrives of a session and stamps its answers (`greetsvc.wire.Measured`). It is not trusted: as
soon as its answers contradict each other, or what we know ourselves, nothing is stated.
"""

from __future__ import annotations

import heapq
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from typing import Any, Literal

from attrs import define, evolve, field, frozen

from greetsvc.net.linux.packets import Arrival
from greetsvc.wire import WRAP, Measured

__all__ = ["Back", "Direction", "Reception", "Session", "There", "combined", "initial_ttl"]

Reception = Literal["answer", "late", "copy", "foreign"]
"""What an answer is: the first to its request, in time or late; one more to a request; to none of ours."""

MAX_KNOWN = 4096
"""The latest requests of a session, whose answers are recognized."""

_WINDOW = 1024
"""Answers that are held back to sort them by their arrival."""

_CHUNK = 1000
"""Answers over which the drift between the two clocks is taken as constant."""


@frozen
class There:
    """Counts of requests: sent, lost on the way there, arrived twice, arrived after one that was sent later.

    ``variation`` is the mean difference between the delays of one request and the next, in seconds. ``hops``,
    ``dscp`` and ``ecn`` are those of the latest request that arrived. None: not known.
    """

    sent: int
    lost: int
    duplicated: int
    reordered: int
    variation: float | None = None
    hops: int | None = None
    dscp: int | None = None
    ecn: int | None = None


@frozen
class Back:
    """The answers, as `There` has the requests. ``late`` ones came after their probe was over; they are not lost."""

    sent: int
    lost: int
    duplicated: int
    reordered: int
    late: int
    variation: float | None = None
    hops: int | None = None
    dscp: int | None = None
    ecn: int | None = None


@frozen
class Direction:
    """What is known of both directions.

    ``unknown`` are the requests at the end to which no answer came: it is not known which way they were lost.
    ``refused`` are those at the end that ICMP reported: they were lost on the way there, and are counted so.
    ``steps`` is from how many differences of delays the variations are.
    """

    there: There
    back: Back
    unknown: int = 0
    steps: int = 0
    refused: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --json` gives as ``direction``."""
        return {"there": _json(self.there), "back": _json(self.back), "unknown": self.unknown}


def _json(way: There | Back) -> dict[str, Any]:
    names = ("sent", "lost", "duplicated", "reordered", "late", "variation", "hops", "dscp", "ecn")
    found = {name: getattr(way, name) for name in names if hasattr(way, name)}
    if way.variation is not None:
        found["variation"] = round(way.variation, 9)
    return found


def combined(parts: Iterable[Direction]) -> Direction | None:
    """The figures of several sessions together; None where there is none."""
    total: Direction | None = None
    for part in parts:
        total = part if total is None else _sum(total, part)
    return total


def _sum(one: Direction, other: Direction) -> Direction:
    steps = one.steps + other.steps

    def both(first: Any, second: Any, *names: str) -> Any:
        counts = {name: getattr(first, name) + getattr(second, name) for name in names}
        known = [(way.variation, part.steps) for way, part in ((first, one), (second, other)) if part.steps]
        mean = sum((variation or 0.0) * count for variation, count in known) / steps if steps else None
        return evolve(second, variation=mean, **counts)

    names = ("sent", "lost", "duplicated", "reordered")
    return Direction(
        both(one.there, other.there, *names),
        both(one.back, other.back, *names, "late"),
        one.unknown + other.unknown,
        steps,
        one.refused + other.refused,
    )


def initial_ttl(arrived: int) -> int:
    """The TTL that a packet most likely left with: 64, 128 or 255 are what systems send."""
    return next(ttl for ttl in (64, 128, 255) if arrived <= ttl)


@define
class _Request:
    """One request of ours: its place in the order of sending, when it left (ns), and what became of it."""

    index: int
    sent: int
    attempt: int
    over: bool = False
    answered: bool = False
    refused: bool = False


@frozen
class _Sample:
    """One request that was answered. Times are in nanoseconds.

    ``there`` and ``back`` are differences between the two clocks. ``timed``: the far end's own time is possible.
    """

    sent: int
    there: int
    back: int
    timed: bool


@define
class _Unwrapped:
    """Counts that wrap (`WRAP`): each is taken as the one nearest to the highest so far."""

    highest: int = 0

    def of(self, count: int) -> int:
        distance = (count - self.highest + WRAP // 2) % WRAP - WRAP // 2
        return self.highest + distance


@define
class _Overtaken:
    """Counts what was overtaken: of ``value``s that come in the order of ``key``, those below an earlier one."""

    count: int = 0
    _heap: list[tuple[int, int]] = field(factory=list)
    _highest: int = -1

    def add(self, key: int, value: int) -> None:
        heapq.heappush(self._heap, (key, value))
        if len(self._heap) > _WINDOW:
            self._take(heapq.heappop(self._heap)[1])

    def _take(self, value: int) -> None:
        self.count += value < self._highest
        self._highest = max(self._highest, value)

    def so_far(self) -> int:
        """The count when nothing comes any more."""
        count, highest = self.count, self._highest
        for _, value in sorted(self._heap):
            count += value < highest
            highest = max(highest, value)
        return count


@define
class _Variation:
    """How delays vary, in the order in which answers come."""

    steps: int = 0
    _samples: list[_Sample] = field(factory=list)
    _there: float = 0.0
    _back: float = 0.0
    _doubtful: int = 0

    def add(self, sample: _Sample) -> None:
        self._samples.append(sample)
        if len(self._samples) > _CHUNK:
            self._close_chunk()

    def _close_chunk(self) -> None:
        there, back, steps, doubtful = variation(self._samples)
        self._there += there
        self._back += back
        self.steps += steps
        self._doubtful += doubtful
        del self._samples[:-1]

    def so_far(self) -> tuple[float | None, float | None]:
        """The mean differences in seconds; None where there are none, or the far end's clock makes no sense."""
        self._close_chunk()
        if not self.steps or self._doubtful > self.steps:
            return None, None
        return self._there / self.steps / 1e9, self._back / self.steps / 1e9


def variation(samples: Sequence[_Sample]) -> tuple[float, float, int, int]:
    """The sums of the differences between one delay and the next, there and back; their number; and of doubtful ones.

    These are the differences of RFC 3550 6.4.1 and RFC 5481 4.1, without the drift between the two clocks: what the
    delays there gain on average and those back lose. A delay is never negative, and at most the round trip: so a
    difference greater than that is a step of the far end's clock, or a lie, and does not count.
    """
    # Each over an eighth of the samples: a step of the clock spoils an eighth of them, which the median ignores.
    apart = len(samples) // 8
    slopes = sorted(
        ((late.there - late.back) - (early.there - early.back)) / 2 / (late.sent - early.sent)
        for early, late in zip(samples, samples[apart:], strict=False)
        if apart > 1 and early.timed and late.timed and late.sent != early.sent
    )
    drift = slopes[len(slopes) // 2] if slopes else 0.0  # the module statistics takes 10 ms to import
    there = back = 0.0
    steps = doubtful = 0
    for one, following in pairwise(samples):
        bound = max(one.there + one.back, following.there + following.back)
        gained = drift * (following.sent - one.sent)
        difference_there = abs(following.there - one.there - gained)
        difference_back = abs(following.back - one.back + gained)
        if not (one.timed and following.timed) or max(difference_there, difference_back) > bound:
            doubtful += 1
            continue
        there += difference_there
        back += difference_back
        steps += 1
    return there, back, steps, doubtful


@define
class Session:
    """The measured requests of one series of probes, and their answers.

    Call `sent` for each request, `received` for each measured answer, `refused` when ICMP reports that a request was
    lost, and `over` when a request's probe is over.
    Answers may be told in another order than they came: their times count, so these should be those of the kernel.
    ``trouble`` says why no figures are stated, in words.
    """

    name: str = field(factory=lambda: os.urandom(8).hex())
    ttl: int | None = None
    """The TTL that our requests leave with."""
    trouble: str = ""
    requests: int = 0
    foreign: int = 0
    most: int = MAX_KNOWN
    _known: OrderedDict[str, _Request] = field(factory=OrderedDict)
    _by_seen: OrderedDict[int, str] = field(factory=OrderedDict)
    _by_seq: OrderedDict[int, str] = field(factory=OrderedDict)
    _seen: _Unwrapped = field(factory=_Unwrapped)
    _seq: _Unwrapped = field(factory=_Unwrapped)
    _distinct: int = 0
    """Answers that differ, and the requests that they answer."""
    _answered: int = 0
    _last: int = -1
    """The latest request, in the order of sending, that was answered."""
    _refused: int = 0
    """Requests after that one that ICMP reported."""
    _copies: int = 0
    _late: int = 0
    _order_there: _Overtaken = field(factory=_Overtaken)
    _order_back: _Overtaken = field(factory=_Overtaken)
    _variation: _Variation = field(factory=_Variation)
    _latest: Measured | None = None
    _latest_back: Arrival = field(factory=Arrival)

    @property
    def answered(self) -> bool:
        """Whether any measured answer came."""
        return self._answered > 0

    def sent(self, nonce: str, when: int, attempt: int, wanted: str = "count") -> dict[str, object]:
        """Remember a request that leaves ``when`` (ns); the fields that it carries to get what is ``wanted``."""
        index = self.requests
        self.requests += 1
        self._known[nonce] = _Request(index, when, attempt)
        if len(self._known) > self.most:
            self._known.popitem(last=False)
        return {"s": self.name, "n": index, "a": attempt, "w": wanted}

    def unsent(self, nonce: str | None) -> None:
        """The latest request could not be sent after all."""
        if nonce is not None and self._known.pop(nonce, None) is not None:
            self.requests -= 1

    def awaits(self, nonce: str) -> bool:
        """Whether this is a measured request to which no answer came yet."""
        request = self._known.get(nonce)
        return request is not None and not request.answered

    def awaits_earlier(self, nonce: str | None) -> bool:
        """Whether a request that left before this one, which was measured too, may still be answered."""
        request = self._known.get(nonce or "")
        return request is not None and any(
            not (earlier.answered or earlier.refused)
            for earlier in takewhile(lambda one: one is not request, self._known.values())
        )

    def refused(self, nonce: str | None) -> None:
        """ICMP reported that this request did not arrive."""
        request = self._known.get(nonce or "")
        if request is not None and not (request.answered or request.refused):
            request.refused = True
            self._refused += request.index > self._last

    def over(self, nonce: str | None) -> None:
        """The probe of this request is over: an answer from now on is late."""
        request = self._known.get(nonce or "")
        if request is not None:
            request.over = True

    def received(self, answer: Measured, when: int, back: Arrival = Arrival()) -> Reception:  # noqa: B008 - frozen
        """Count an answer that came ``when`` (ns), with the header fields in ``back``; what it is."""
        request = self._known.get(answer.nonce)
        if request is None:
            self.foreign += 1
            return "foreign"
        if (answer.session, answer.number, answer.attempt) != (self.name, request.index, request.attempt):
            self._doubt("an answer repeats other numbers than ours")
        seen, seq = self._seen.of(answer.seen), self._seq.of(answer.seq)
        if self._by_seq.get(seq) == answer.nonce and self._by_seen.get(seen) == answer.nonce:
            self._copies += 1
            return "copy"
        if seq in self._by_seq or seen in self._by_seen:
            self._doubt("two answers carry the same count: more than one server answers, or it was restarted")
        if not 1 <= seq <= seen:
            self._doubt("more answers than requests are counted")
        for table, count in ((self._by_seen, seen), (self._by_seq, seq)):
            table[count] = answer.nonce
            if len(table) > self.most:
                table.popitem(last=False)
        self._distinct += 1
        self._order_back.add(when, seq)
        self._seen.highest, self._seq.highest = max(seen, self._seen.highest), max(seq, self._seq.highest)
        self._latest, self._latest_back = answer, back
        if request.answered:
            return "copy"
        request.answered = True
        self._answered += 1
        if request.index > self._last:
            self._last = request.index
            if self._refused:
                after = takewhile(lambda other: other.index > self._last, reversed(self._known.values()))
                self._refused = sum(other.refused for other in after)
        self._late += request.over
        timed = 0 <= answer.tx - answer.rx <= when - request.sent
        delays = answer.rx - request.sent, when - answer.tx
        self._order_there.add(seen, request.index)
        self._variation.add(_Sample(request.sent, *delays, timed))
        return "late" if request.over else "answer"

    def _doubt(self, why: str) -> None:
        self.trouble = self.trouble or f"the answers contradict each other: {why}"

    def direction(self) -> Direction | None:
        """The figures so far; None where they are not known, and `trouble` says why."""
        if self._latest is None:
            self.trouble = self.trouble or "no measured answer came"
        if self._latest is None or self.trouble:
            return None
        considered, arrived, doubled = self._last + 1, self._seen.highest, self._distinct - self._answered
        lost = considered - (arrived - doubled)
        if lost < 0:
            # More arrived than was sent: copies, of which the answers were lost. Seldom more than those that came.
            if -lost > 2 * doubled + 2:
                self._doubt("more requests are counted than we sent")
                return None
            doubled, lost = doubled - lost, 0
        there, back = self._variation.so_far()
        latest, latest_back = self._latest, self._latest_back
        return Direction(
            There(
                *(self.requests, lost + self._refused, doubled, self._order_there.so_far(), there),
                hops=None
                if self.ttl is None or latest.ttl is None or latest.ttl > self.ttl
                else self.ttl - latest.ttl,
                dscp=None if latest.tos is None else latest.tos >> 2,
                ecn=None if latest.tos is None else latest.tos & 3,
            ),
            Back(
                *(self._seq.highest, self._seq.highest - self._distinct, self._copies),
                *(self._order_back.so_far(), self._late, back),
                hops=None if latest_back.ttl is None else initial_ttl(latest_back.ttl) - latest_back.ttl,
                dscp=latest_back.dscp,
                ecn=latest_back.ecn,
            ),
            unknown=self.requests - considered - self._refused,
            steps=self._variation.steps,
            refused=self._refused,
        )
