"""The account of a load run: what was sent, greeted and lost, when, and how long it took. Pure."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence

from attrs import define, field, frozen

from greetsvc.client.histogram import Histogram
from greetsvc.client.load.pacing import LATE, Paced
from greetsvc.client.result import Phase
from greetsvc.client.stats import Tally

__all__ = ["Account", "Failing", "Second"]

_BUSY = 0.9
_NOTABLE = 0.1
"""A delay of this many seconds is told of even when it is less than 1 % of the visits that were late."""

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


@define
class Second:
    """What was begun, greeted and lost within one second of a run."""

    sent: int = 0
    greeted: int = 0
    lost: int = 0


@frozen
class Failing:
    """One way in which visits failed: the step, the errno, what was said the first time, and how often."""

    phase: Phase
    errno: int
    words: str
    count: int

    @property
    def name(self) -> str:
        """The errno's name."""
        return errno.errorcode.get(self.errno, str(self.errno))


@define
class Account:
    """Counts over a load run; seconds everywhere.

    ``corrected`` holds how long each greeting took from the *intended* start of its visit, ``uncorrected`` from its
    actual one; without a rate a visit has no other start than the actual one, and there is no ``uncorrected``. Both
    end with the greeting (the far end's FIN, or the answer's datagram). ``seconds`` counts by the second in which a
    thing happened, ``lost_in`` what was lost by the second in which it began (open loop: was meant to).
    """

    corrected: Histogram = field(factory=Histogram)
    uncorrected: Histogram | None = None
    paced: Paced | None = None
    sent: int = 0
    greeted: int = 0
    lost: int = 0
    flawed: int = 0
    unfinished: int = 0
    """In flight when the run was stopped; not part of ``sent``."""
    elapsed: float = 0.0
    """How long visits were begun."""
    greeted_meanwhile: int = 0
    """Greeted while visits were still begun: those that the rate is made of."""
    cpu: float = 0.0
    """Processor seconds that this thread used meanwhile."""
    seconds: list[Second] = field(factory=lambda: [Second()])
    lost_in: Counter[int] = field(factory=Counter)
    _failed: Counter[tuple[Phase, int]] = field(factory=Counter)
    _words: dict[tuple[Phase, int], str] = field(factory=dict)

    @classmethod
    def open(cls, paced: Paced) -> Account:
        """The account of an open loop."""
        return cls(uncorrected=Histogram(), paced=paced)

    def begin(self, visits: int = 1) -> None:
        """Visits begin."""
        self.sent += visits
        self.seconds[-1].sent += visits

    def greet(self, corrected: Sequence[float], uncorrected: Sequence[float], *, flawed: int) -> None:
        """Greetings have come, these many seconds after their intended and their actual start; so many are flawed."""
        self.greeted += len(corrected)
        self.seconds[-1].greeted += len(corrected)
        self.corrected.add(*corrected)
        if self.uncorrected is not None:
            self.uncorrected.add(*uncorrected)
        self.flawed += flawed

    def lose(self, phase: Phase, number: int, words: str, began: float) -> None:
        """A visit that began (was meant to) at this second of the run has failed."""
        self.lost += 1
        self.seconds[-1].lost += 1
        self.lost_in[int(began)] += 1
        self.remark(phase, number, words)

    def remark(self, phase: Phase, number: int, words: str) -> None:
        """Something failed, be it after the greeting."""
        self._failed[phase, number] += 1
        self._words.setdefault((phase, number), words)

    def leave(self) -> None:
        """Stopped: visits that have begun and not ended are neither greeted nor lost."""
        self.unfinished = self.sent - self.greeted - self.lost
        self.sent -= self.unfinished

    @property
    def failings(self) -> list[Failing]:
        """How visits failed, the most frequent first; in phase ``close`` after a greeting that counts."""
        return [
            Failing(phase, number, self._words[phase, number] or os.strerror(number), count)
            for (phase, number), count in self._failed.most_common()
        ]

    @property
    def rate(self) -> float:
        """Greetings a second, while visits were begun."""
        return self.greeted_meanwhile / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def missed(self) -> int:
        """Visits of an open loop that were due and never began, for all N were in flight until the end."""
        if self.paced is None:
            return 0
        due = min(self.paced.total, int(round(self.elapsed * self.paced.rate, 6)))
        return max(0, due - self.paced.taken)

    def tally(self, tally: Tally) -> None:
        """Fill in what the exit status is made of: late and missing visits are flaws of the run."""
        tally.sent, tally.greeted = self.sent, self.greeted
        tally.flawed = self.flawed + self.missed
        tally.elapsed, tally.seconds = self.elapsed, self.corrected

    def warnings(self, concurrency: int) -> list[str]:
        """What kept the run from being what it was meant to be, a line each."""
        found = []
        failed: Counter[int] = Counter()
        for (_, number), count in self._failed.items():
            failed[number] += count
        if ports := failed[errno.EADDRNOTAVAIL]:
            found.append(
                f"this host had no source port left for {ports} visits (net.ipv4.ip_local_port_range): "
                "those losses are its own"
            )
        if files := sum(failed[number] for number in _OUT_OF_FILES):
            found.append(f"this process could open no more files for {files} visits: those losses are its own")
        if self.elapsed and self.cpu / self.elapsed >= _BUSY:
            found.append(
                f"this client used {100 * self.cpu / self.elapsed:.0f} % of a core: "
                "it is likely the limit, and the times include its own"
            )
        found.extend(self._schedule(concurrency))
        return found

    def _schedule(self, concurrency: int) -> list[str]:
        paced = self.paced
        if paced is None:
            return []
        found = []
        share = (
            f"{100 * paced.late / max(1, paced.taken):.3g} % of the visits began more than {LATE * 1000:g} ms late"
        )
        worst = f"at worst {paced.worst:.3f} s"
        notable = paced.late > paced.taken / 100 or paced.worst > _NOTABLE
        if notable and 2 * paced.stuck > paced.late:
            found.append(
                f"{share}, {worst}: all {concurrency} were in flight; "
                "the far end is too slow for this rate, or it needs a greater --concurrency"
            )
        elif notable:
            found.append(f"{share}, {worst}: this client is too slow for this rate")
        if self.missed:
            found.append(f"{self.missed} visits were due and never began, for all {concurrency} were in flight")
        return found
