"""A protocol for greetsvc: an echo that cannot be abused.

The old echo service (RFC 862) sends back whatever comes, for ever. Here `TalkingProtocol` gives the bounds.
"""

from __future__ import annotations

from greetsvc.protocols import Limits, TalkingProtocol

__all__ = ["TOTAL", "EchoProtocol"]

TOTAL = 1000
"""Lines that one connection gets back, unless ``total`` says otherwise: two echoes that were connected to each other
by mistake must not talk for ever."""


class EchoProtocol(TalkingProtocol):
    """Greets, then sends each line back."""

    default_limits = Limits(total=TOTAL)

    def reply(self, message: str) -> str:
        """The line."""
        return message
