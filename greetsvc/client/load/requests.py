"""The datagram requests of a load run: each has a nonce of its own, and some ask for measured answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from greetsvc.client.evidence.direction import Session
from greetsvc.client.words import NONE_MEASURED, NOT_MEASURED
from greetsvc.net.linux.packets import read_header
from greetsvc.wire import MARK, MARKED_MINIMUM, PADDING, decode_measured, request

__all__ = ["Requests"]

_MEASURED_RATE = 1000
"""Requests a second that are measured, about: of more, only each second, third, ... one, as one costs a lot."""

_NONCES = 1 << 64
_NAMED = (b"greeted 1 ", b"{")
"""How the answers begin that carry the nonce of their request."""


class Requests:
    """Makes requests of ``size`` bytes, and judges the answers. With ``session`` some are measured.

    ``now`` is a monotonic clock, in seconds.
    """

    def __init__(
        self, size: int, session: Session | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self.session = session
        self.unmeasured = ""
        """Why there are no measured answers, in words."""
        self._size = size
        self._tail = b" " + PADDING * (size - MARKED_MINIMUM)
        self._nonce = int.from_bytes(os.urandom(8), "big")
        self._until_measured = self._every = 1
        self._since, self._made, self._measured = now(), 0, 0

    def make(self) -> tuple[bytes, bytes]:
        """A nonce, and the request that carries it."""
        self._nonce = (self._nonce + 1) % _NONCES
        nonce = b"%016x" % self._nonce
        if self.session is not None:
            self._until_measured -= 1
            if not self._until_measured:
                self._pace()
                name = nonce.decode("ascii")
                return nonce, request(name, self._size, self.session.sent(name, time.time_ns(), 0))
        if self._size < MARKED_MINIMUM:
            return nonce, PADDING * self._size
        return nonce, MARK + nonce + self._tail

    def _pace(self) -> None:
        """Say how many requests are not measured before the next one that is."""
        now = self._now()
        self._made += self._every
        self._measured += 1
        if now - self._since >= 1.0:
            self._every = max(1, round(self._made / (now - self._since) / _MEASURED_RATE))
            self._since, self._made, self._measured = now, 0, 0
        elif self._measured > _MEASURED_RATE:
            self._every, self._measured = 2 * self._every, 0
        self._until_measured = self._every

    def unsent(self, nonce: bytes) -> None:
        """The latest request could not be sent after all."""
        if self.session is not None:
            self.session.unsent(nonce.decode("ascii"))

    def refused(self, nonce: bytes) -> None:
        """ICMP reported that this request did not arrive."""
        if self.session is not None:
            self.session.refused(nonce.decode("ascii"))

    def over(self, nonce: bytes) -> None:
        """The probe of this request is over."""
        if self.session is not None:
            self.session.over(nonce.decode("ascii"))

    def answers(self, nonce: bytes, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """Whether ``data`` answers the request with this nonce; a measured answer is counted."""
        session = self.session
        if session is not None:
            measured = decode_measured(data)
            if measured is not None:
                arrival = read_header(ancillary)
                what = session.received(measured, arrival.time or time.time_ns(), arrival)
                return what == "answer" and measured.nonce == nonce.decode("ascii")
            if session.awaits(nonce.decode("ascii")):
                self._greeted_instead(session)
        return nonce in data or not data.startswith(_NAMED)

    def _greeted_instead(self, session: Session) -> None:
        """A measured answer was asked for, and a greeting came."""
        if session.answered:
            session.trouble = session.trouble or NOT_MEASURED
        else:
            self.session, self.unmeasured = None, NONE_MEASURED
