"""The most that a load run may be asked for. Apart, so that a health check need not load the rest."""

from __future__ import annotations

__all__ = ["LONGEST_DURATION", "MOST_CONCURRENT", "MOST_RATE"]

LONGEST_DURATION = 86400.0
"""Seconds."""

MOST_CONCURRENT = 100_000
MOST_RATE = 1_000_000.0
"""Visits a second."""
