"""A greeter in a package of its own: how many days it is until a day."""

from __future__ import annotations

from datetime import UTC, date, datetime

from greetsvc.greeters import Visit

__all__ = ["CountdownGreeter"]


class CountdownGreeter:
    """Gives the number of days left until ``day``, in UTC."""

    # Without needs, the first greeting would be kept for all visits.
    needs = frozenset({"when"})

    def __init__(self, day: date, encoding: str = "utf-8") -> None:
        self._day = day
        self._encoding = encoding

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> CountdownGreeter:
        """The days left until DAY, as 2030-01-01."""
        try:
            day = date.fromisoformat(argument)
        except ValueError as error:
            raise ValueError(f"countdown needs a day, as countdown:2030-01-01, not {argument!r}") from error
        return cls(day, encoding)

    def greet(self, visit: Visit) -> bytes:
        """One line."""
        left = (self._day - datetime.fromtimestamp(visit.when, UTC).date()).days
        return f"{max(left, 0)} days to go\r\n".encode(self._encoding, "replace")
