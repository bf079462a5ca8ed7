"""The metrics of a load run: what was sent, greeted and lost, when, and how long it took. Pure."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence

from attrs import define, field, frozen

from greetsvc.client.evidence.direction import Direction
from greetsvc.client.load.pacing import LATE, Schedule
from greetsvc.client.stats import Histogram, RunStats
from greetsvc.client.words import NO_IPV6, Phase, decimal
from greetsvc.printable import shortened

__all__ = ["Connections", "FailureCount", "LoadMetrics", "SecondCounts", "Strays"]

_BUSY = 0.9
"""The share of a core from which this client is likely the limit."""
_NOTABLE_DELAY = 0.1
"""A delay of this many seconds is reported even when less than 1 % of the probes started late."""


_MAX_FAILURES = 64
_LONGEST_WORDS = 600
"""Kinds of failures with words of their own, and characters of these. The far end chooses some of the words, such as
the names of its certificate.
"""


@define
class SecondCounts:
    """What was started, greeted and lost within one second of a run."""

    sent: int = 0
    greeted: int = 0
    lost: int = 0


@define
class Strays:
    """Answers to datagram probes that were over: those that came after the time-out, and copies."""

    late: int = 0
    doubled: int = 0

    def add(self, *, late: bool) -> None:
        """Count one."""
        self.late += late
        self.doubled += not late

    def __bool__(self) -> bool:
        return bool(self.late or self.doubled)


@define
class Connections:
    """The connections of a run that talks: how many were opened in all, are open, and were open at the same time.

    ``seconds`` has how long they took from connecting to the greeting.
    """

    opened: int = 0
    open: int = 0
    most: int = 0
    seconds: Histogram = field(factory=Histogram)

    def add_opened(self) -> None:
        """Count one."""
        self.opened += 1
        self.open += 1
        self.most = max(self.most, self.open)


@frozen
class FailureCount:
    """One kind of failure: the step, the errno, its words, and how often it happened."""

    phase: Phase
    errno: int
    words: str
    count: int

    @property
    def name(self) -> str:
        """The name of the errno."""
        return errno.errorcode.get(self.errno, str(self.errno))


@define
class LoadMetrics:
    """Counts and times of a load run; all times are in seconds.

    ``corrected`` has how long each greeting took from the *intended* start of its probe, ``uncorrected`` from its
    actual start; without a rate a probe has no intended start, and there is no ``uncorrected``. Both end with the
    greeting (the server's FIN, or the answer's datagram). ``seconds`` counts by the second in which something
    happened, ``lost_in`` counts losses by the second in which the probe started (open loop: should have started).
    ``connections`` are those of a run that talks: there a probe is a message and its reply.
    """

    schedule: Schedule | None = None
    corrected: Histogram = field(factory=Histogram)
    uncorrected: Histogram | None = field(init=False)
    sent: int = 0
    greeted: int = 0
    lost: int = 0
    flawed: int = 0
    unfinished: int = 0
    """In flight when the run was stopped; not part of ``sent``."""
    elapsed: float = 0.0
    """How long probes were started."""
    greeted_meanwhile: int = 0
    """Greeted in that time: the rate is computed from these."""
    cpu: float = 0.0
    """Processor seconds that this thread used in that time."""
    seconds: list[SecondCounts] = field(factory=lambda: [SecondCounts()])
    lost_in: Counter[int] = field(factory=Counter)
    strays: Strays = field(factory=Strays)
    direction: Direction | None = None
    unmeasured: str = ""
    connections: Connections | None = None
    _failed: Counter[tuple[Phase, int, str]] = field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self.uncorrected = None if self.schedule is None else Histogram()

    def add_started(self, probes: int = 1) -> None:
        """Count probes that start."""
        self.sent += probes
        self.seconds[-1].sent += probes

    def add_greeted(self, corrected: Sequence[float], uncorrected: Sequence[float], *, flawed: int) -> None:
        """Count greetings, by their times from the intended and from the actual start; ``flawed`` of them are so."""
        self.greeted += len(corrected)
        self.seconds[-1].greeted += len(corrected)
        self.corrected.add(*corrected)
        if self.uncorrected is not None:
            self.uncorrected.add(*uncorrected)
        self.flawed += flawed

    def add_lost(self, phase: Phase, number: int, words: str, started: float) -> None:
        """Count a probe that failed and that started (or should have) at this second of the run."""
        self.lost += 1
        self.seconds[-1].lost += 1
        self.lost_in[int(started)] += 1
        self.add_failure(phase, number, words)

    def add_failure(self, phase: Phase, number: int, words: str) -> None:
        """Count a failure; in phase ``close`` the probe was greeted all the same."""
        key = (phase, number, shortened(words, _LONGEST_WORDS))
        if key not in self._failed and len(self._failed) >= _MAX_FAILURES:
            key = (phase, number, "")
        self._failed[key] += 1

    def stop(self) -> None:
        """The run was stopped: probes in flight are neither greeted nor lost."""
        self.unfinished = self.sent - self.greeted - self.lost
        self.sent -= self.unfinished

    @property
    def failures(self) -> list[FailureCount]:
        """The kinds of failures, the most frequent first."""
        return [
            FailureCount(phase, number, words or os.strerror(number), count)
            for (phase, number, words), count in self._failed.most_common()
        ]

    @property
    def rate(self) -> float:
        """Greetings a second, while probes were started."""
        return self.greeted_meanwhile / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def connection_rate(self) -> float | None:
        """Replies a second on each of the connections that were open at the same time; None where nobody talked."""
        return self.rate / self.connections.most if self.connections and self.connections.most else None

    @property
    def missed(self) -> int:
        """Probes of an open loop that were due and never started, because all N were in flight until the end."""
        if self.schedule is None:
            return 0
        due = min(self.schedule.total, int(round(self.elapsed * self.schedule.rate, 6)))
        return max(0, due - self.schedule.started)

    def fill_in(self, stats: RunStats) -> None:
        """Fill in what decides the exit status: missed probes are flaws of the run."""
        stats.sent, stats.greeted = self.sent, self.greeted
        stats.flawed = self.flawed + self.missed
        stats.elapsed, stats.seconds = self.elapsed, self.corrected

    def warnings(self, concurrency: int) -> list[str]:
        """What limited the run on this side, and delays of its schedule, a line each."""
        found = []
        failed: Counter[int] = Counter()
        for (_, number, words), count in self._failed.items():
            failed[0 if words.endswith(NO_IPV6) else number] += count
        if ports := failed[errno.EADDRNOTAVAIL]:
            found.append(
                f"this host had no free source port for {ports} probes (net.ipv4.ip_local_port_range): "
                "these losses are not the server's"
            )
        if files := failed[errno.EMFILE] + failed[errno.ENFILE]:
            found.append(f"this process could not open files for {files} probes: these losses are not the server's")
        if self.elapsed and self.cpu / self.elapsed >= _BUSY:
            found.append(
                f"this client used {100 * self.cpu / self.elapsed:.0f} % of a core: "
                "it is likely the limit, and the times include its own delays"
            )
        if self.strays.late:
            found.append(f"{self.strays.late} answers came after the time-out: they are counted as lost")
        if self.strays.doubled:
            found.append(f"{self.strays.doubled} answers came twice: a copy is not counted")
        return found + self._schedule_warnings(concurrency)

    def _schedule_warnings(self, concurrency: int) -> list[str]:
        schedule = self.schedule
        if schedule is None:
            return []
        found = []
        if schedule.late > schedule.started / 100 or schedule.worst > _NOTABLE_DELAY:
            share = f"{decimal(100 * schedule.late / max(1, schedule.started))} % of the probes"
            late = f"{share} started more than {LATE * 1000:g} ms late, at worst {schedule.worst:.3f} s"
            if 2 * schedule.waited > schedule.late:
                why = (
                    f"all {concurrency} were in flight; "
                    "the server is too slow for this rate, or it needs a greater --concurrency"
                )
            else:
                why = "this client is too slow for this rate"
            found.append(f"{late}: {why}")
        if self.missed:
            found.append(f"{self.missed} probes were due and never started: all {concurrency} were in flight")
        return found
