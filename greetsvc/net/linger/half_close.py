"""The lingering close for a protocol whose transport has none.

On Twisted's own transports ``loseConnection`` closes the socket while the peer may still be sending, and the reset
that follows can destroy what was written. A protocol that runs there too closes like this::

    if ILingers.providedBy(self.transport):
        self.transport.loseConnection()
    else:
        self.closing = LingeringClose(self.transport, reactor, lifetime=10)

and from then on passes ``dataReceived`` to `LingeringClose.discard` and ``connectionLost`` to `LingeringClose.stop`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime, ISSLTransport

from greetsvc.net.linger.watched import MAX_DISCARDED, SILENCE

__all__ = ["LingeringClose"]


class LingeringClose:
    """Closes ``transport``: sends what is written, then FIN, and waits in bounded time for the peer to close.

    Closes after ``silence`` seconds without a byte, and aborts after ``lifetime`` seconds or more than
    `MAX_DISCARDED` bytes. TLS has a close of its own that waits for the peer (close_notify): it is used there, in
    the same bounds.
    """

    def __init__(self, transport: Any, clock: IReactorTime, *, silence: float = SILENCE, lifetime: float) -> None:
        self._transport = transport
        self._clock = clock
        self._silence = silence
        self._discarded = 0
        self._last_heard = clock.seconds()
        self._end = self._last_heard + lifetime
        self._half_closes = not ISSLTransport.providedBy(transport) and hasattr(transport, "loseWriteConnection")
        self._timer = clock.callLater(min(silence, lifetime), self._check)
        if self._half_closes:
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def discard(self, data: bytes) -> None:
        """The peer is still sending."""
        self._last_heard = self._clock.seconds()
        self._discarded += len(data)
        if self._discarded > MAX_DISCARDED:
            self._transport.abortConnection()

    def stop(self) -> None:
        """The connection is lost."""
        if self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        now = self._clock.seconds()
        silent = now >= self._last_heard + self._silence
        if now < self._end and not silent:
            self._timer = self._clock.callLater(min(self._last_heard + self._silence, self._end) - now, self._check)
        elif now < self._end and self._half_closes:
            # A peer that does not read keeps this from closing, as something is still to be sent: abort at the end.
            self._timer = self._clock.callLater(self._end - now, self._check)
            self._transport.loseConnection()
        else:
            self._transport.abortConnection()
