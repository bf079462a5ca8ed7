"""The greeter ``daytime``: the date and the time, for people to read (RFC 867)."""

from __future__ import annotations

import time

from greetsvc.visit import Visit

__all__ = ["DaytimeGreeter"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


class DaytimeGreeter:
    """Gives the local date and time in the first form that RFC 867 suggests, in English whatever the locale is."""

    needs = frozenset({"when"})

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> DaytimeGreeter:
        """The local date and time, for people to read (RFC 867)."""
        if argument:
            raise ValueError(f"daytime takes no argument, not {argument!r}")
        return cls(encoding)

    def greet(self, visit: Visit) -> bytes:
        """As in ``Tuesday, February 22, 1982 17:37:43-PST``."""
        at = time.localtime(visit.when)
        day = f"{_DAYS[at.tm_wday]}, {_MONTHS[at.tm_mon - 1]} {at.tm_mday}, {at.tm_year}"
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}-{at.tm_zone}"
        return f"{day} {clock}\r\n".encode(self._encoding, "replace")
