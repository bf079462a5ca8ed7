"""A protocol for greetsvc: a reflector for STAMP (RFC 8762) and TWAMP Light (RFC 5357, appendix I), unauthenticated.

A Session-Sender sends numbered, time-stamped packets. The reflector sends each back with the times at which it came
and left, and the TTL that it had. From that the sender computes delay, its variation, and loss. The reflector is
stateless: its sequence numbers are copies of the sender's (RFC 8762, 4.3), so loss has no direction.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from greetsvc.protocols import DatagramService

__all__ = ["StampReflector", "reflected", "stamp"]

SHORTEST = 41
"""Bytes of a request: those of the answer to TWAMP Light (RFC 5357, 4.2.1), which ends with the TTL. STAMP has 44."""

_ERROR = 22 << 8 | 1
"""The error estimate (RFC 4656, 4.1.2): not known to be synchronized, NTP format, 1 * 2**22 / 2**32 s, about 1 ms."""

_FROM_1900 = 2_208_988_800
"""Seconds from 1900, where NTP begins, to 1970."""

_UNKNOWN_TTL = 255
"""Where the TTL cannot be read (RFC 8762, 4.3.1)."""

_FIRST = 14
"""Bytes of a request that are copied into the answer: sequence number, time stamp and error estimate. Behind them a
sender of RFC 8972 has two bytes for the number of its session, which go back, too."""


def ntp(nanoseconds: int) -> int:
    """A time since 1970 as an NTP time stamp of 64 bits (RFC 5905, 6); it wraps in 2036."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return (seconds + _FROM_1900 << 32 | (rest << 32) // 10**9) & (1 << 64) - 1


def reflected(request: bytes, received: int, sent: int, ttl: int | None) -> bytes | None:
    """The answer to a packet of a Session-Sender, as long as it is, or None for any other packet.

    ``received`` and ``sent`` are in nanoseconds since 1970. What follows the base packet is padding, or extensions
    that a reflector of RFC 8762 does not know: it goes back as it came.

    The octets that a sender must leave zero hold the receive time in an answer. So no answer is ever answered, and
    two reflectors cannot keep each other busy. A sender that pads with other octets is not answered.
    """
    base = request[_FIRST + 2 : 44]
    if len(request) < SHORTEST or any(base):
        return None
    answer = struct.pack(
        "!4sQH2sQ14sxxBxxx",
        request[:4],
        ntp(sent),
        _ERROR,
        request[_FIRST : _FIRST + 2],
        ntp(received),
        request[:_FIRST],
        _UNKNOWN_TTL if ttl is None else ttl,
    )
    return answer[: len(request)] + request[len(answer) :]


class StampReflector(DatagramProtocol):
    """Reflects what a Session-Sender sends."""

    noisy = False
    transport: Any

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer at once."""
        received = time.time_ns()
        ttl = self.transport.arrival and self.transport.arrival.ttl
        answer = reflected(datagram, received, time.time_ns(), ttl)
        if answer is not None:
            self.transport.write(answer, addr)


def stamp(argument: str, _encoding: str) -> DatagramService:
    """Reflects STAMP and TWAMP Light packets (RFC 8762)."""
    if argument:
        raise ValueError(f"stamp has no options, not {argument!r}")
    # An answer is as long as its request, and answers are never answered.
    return DatagramService(make=StampReflector, loop_safe=True, headers=True)
