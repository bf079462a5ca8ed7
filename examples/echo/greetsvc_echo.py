"""A protocol for greetsvc: an echo that cannot be abused.

The old echo service (RFC 862) sends back whatever comes, for ever. Here `TalkingProtocol` gives the bounds.
"""

from __future__ import annotations

from greetsvc.protocols import StreamPlugin, TalkingProtocol

__all__ = ["TOTAL", "EchoProtocol", "echo"]

TOTAL = 1000
"""Lines that one connection gets back, unless ``total`` says otherwise: two echoes that were connected to each other
by mistake must not talk for ever."""


class EchoProtocol(TalkingProtocol):
    """Sends each line back."""

    def reply(self, message: str) -> str:
        """The line."""
        return message


def echo(argument: str, encoding: str) -> StreamPlugin:
    """Greets, then sends each line back."""
    return EchoProtocol.from_argument(f"total={TOTAL}:{argument}", encoding)
