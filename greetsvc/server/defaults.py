"""The defaults that the protocols, the UDP rule and the options of the daemon share."""

from __future__ import annotations

from greetsvc.net.linger.watched import SILENCE

__all__ = ["DEADLINE", "LINGER", "UDP_BUDGET"]

DEADLINE = 10.0
"""Seconds that a connection may live."""

LINGER = SILENCE
"""Seconds of silence allowed while a connection drains after its greeting."""

UDP_BUDGET = 1024
"""Bytes a second of UDP answers that one source prefix may get besides the free ones."""
