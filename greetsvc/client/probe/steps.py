"""The steps of one probe: its deadline, the step it is in, what was remarked, and its trace.

Importing this needs no library: a health check does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from greetsvc.address import Address
from greetsvc.client.target import Target, format_address
from greetsvc.client.words import NO_LOOPBACK
from greetsvc.net.linux.loopback import loopback_is_down
from greetsvc.printable import shortened

if TYPE_CHECKING:
    from greetsvc.client.basics import Basics
    from greetsvc.client.evidence.icmp import Icmp
    from greetsvc.client.options import ProbeOptions
    from greetsvc.client.words import Closed, Phase

__all__ = ["LONGEST", "Steps", "Trace"]

Trace = Callable[[str], None]
"""Takes a line for each step, in the manner of curl: ``* connected``, ``> request``, ``< answer``."""

_MAX_NOTES = 8
LONGEST = 600
"""Remarks about one probe, and characters of a remark, of an error and of a greeting in the trace."""

_NOW = 0.005
"""Seconds. A time stamp that is younger may be that of the read, and not that of the arrival."""

_TOLD = 3
"""Addresses of a name that are told as not asked."""


class Steps:
    """What a probe goes through. Pure: ``now`` is its only clock. A subclass says what a failure is."""

    def __init__(
        self,
        target: Target,
        options: ProbeOptions | Basics,
        *,
        now: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
    ) -> None:
        self.target = target
        self.options = options
        self.phase: Phase = "resolve"
        self.peer: Address | None = None
        self.found: list[Address] = []
        """The addresses of the name, where the target has one; only the first is asked."""
        self.cut_short = ""
        self.now = now
        self._trace = trace
        self._start = self._entered = now()
        self._took: dict[str, float] = {}
        self._notes: list[str] = []

    @property
    def within(self) -> str:
        """The time-out in words."""
        return f"within {self.options.timeout:g} s"

    @property
    def deadline(self) -> float:
        """When the time-out is over, on our clock."""
        return self._start + self.options.timeout

    def remaining(self) -> float:
        """Seconds left of the time-out; never negative."""
        return max(0.0, self.deadline - self.now())

    def is_late(self, came: int | None) -> bool:
        """Whether something that ``came`` (CLOCK_REALTIME in ns; None: not known) did so when the time was over.

        This process may have been too busy to notice that it was. A time of just now is not known either: the kernel
        stamps packets only some time after the first socket asked for that, and gives the present time until then.
        """
        age = 0.0 if came is None else (time.time_ns() - came) / 1e9
        return age > _NOW and self.now() - age > self.deadline

    def in_phase(self) -> float:
        """Seconds since the present step began."""
        return self.now() - self._entered

    def enter(self, phase: Phase) -> None:
        """A step begins now."""
        self.phase = phase
        self._entered = self.now()

    def leave(self) -> None:
        """The step succeeded; it ends now."""
        self._took[self.phase] = self.now() - self._entered

    def resolved(self, found: list[Address]) -> None:
        """The name has these addresses, of which the first is asked."""
        self.leave()
        self.found = list(dict.fromkeys(found))
        self.trace("*", f"{self.target.host} is {found[0].host}, the first of {len(found)}")

    def first_byte(self) -> None:
        """The first byte of the greeting has come; later calls change nothing."""
        self._took.setdefault("first_byte", self.now() - self._entered)

    def trace(self, mark: str, text: str) -> None:
        """Report a step to the trace, if there is one."""
        if self._trace is not None:
            self._trace(f"{mark} {text}")

    def note(self, text: str) -> None:
        """Keep a remark for the result, once."""
        if len(self._notes) > _MAX_NOTES or text in self._notes:
            return
        text = shortened(text, LONGEST) if len(self._notes) < _MAX_NOTES else "further remarks are left out"
        self._notes.append(text)
        self.trace("*", text)

    def asked(self) -> str:
        """Which address of a name was asked, and which were not."""
        if not self.found:
            return ""
        asked, *others = map(format_address, self.found)
        if not others:
            return f"asked {asked}"
        more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
        return (
            f"asked {asked}, the first of {len(self.found)} addresses; not asked: {', '.join(others[:_TOLD])}{more}"
        )

    def reason(self, why: str) -> str:
        """Why the present step failed, with what was remarked before."""
        why = shortened(why, LONGEST)
        if self.peer is not None and not self.target.local and loopback_is_down(self.peer.host):
            why = f"{why}: {NO_LOOPBACK}"
        return f"{why} ({'; '.join(self._notes)})" if self._notes else why

    def failed(self, number: int, why: str, closed: Closed | None = None, *, icmp: Icmp | None = None) -> Exception:
        """What to raise when the present step failed, with this errno."""
        raise NotImplementedError
