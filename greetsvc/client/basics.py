"""What every way to probe has in common: the defaults of the options, and the exit statuses of `greet`.

Importing this needs no library: a health check does.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["BASICS", "FLAWED", "GREETED", "NOT_GREETED", "WRONG_USAGE", "Basics", "Family"]

GREETED = 0
FLAWED = 1
NOT_GREETED = 2
WRONG_USAGE = 3
"""The exit statuses of `greet`; 3 is also for output that cannot be written, as UNKNOWN is in monitoring."""

Family = Literal[4, 6]


class Basics(NamedTuple):
    """The options that a health check knows, with their defaults; see `greetsvc.client.options.ProbeOptions`."""

    timeout: float = 5.0
    family: Family | None = None
    size: int = 1200
    encoding: str = "utf-8"
    limit: int = 65536
    source_port: None = None


BASICS = Basics()
