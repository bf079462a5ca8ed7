"""The lingering close for a protocol whose transport does not linger by itself.

On Twisted's own transports ``loseConnection`` closes without regard to what the peer is still sending, and the
reset that follows can destroy what was written. A protocol that wants to run there too asks::

    if ILingers.providedBy(self.transport):
        self.transport.loseConnection()
    else:
        self.closing = LingeringClose(self.transport, reactor, lifetime=10)

and from then on passes ``dataReceived`` to `LingeringClose.discard`, and ``connectionLost`` to `LingeringClose.stop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport

from greetsvc.net.linger.drain import AT_LEAST, SILENCE

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

__all__ = ["LingeringClose"]


class LingeringClose:
    """Closes ``transport``: sends what is written and then FIN, and waits in bounded time for the peer to close.

    Closes anyway after ``silence`` seconds without a byte, and aborts after ``lifetime`` seconds or more than
    ``at_least`` bytes. TLS has a close of its own that waits for the peer: it is used there, in the same bounds.
    """

    def __init__(
        self,
        transport: Any,
        clock: IReactorTime,
        *,
        silence: float = SILENCE,
        lifetime: float,
        at_least: int = AT_LEAST,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._silence = silence
        self._at_least = at_least
        self._taken = 0
        self._heard = clock.seconds()
        self._end = self._heard + lifetime
        self._half_closes = not ISSLTransport.providedBy(transport) and hasattr(transport, "loseWriteConnection")
        self._timer = clock.callLater(min(silence, lifetime), self._look)
        if self._half_closes:
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def discard(self, data: bytes) -> None:
        """The peer is still sending."""
        self._heard = self._clock.seconds()
        self._taken += len(data)
        if self._taken > self._at_least:
            self._transport.abortConnection()

    def stop(self) -> None:
        """The connection is lost."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        now = self._clock.seconds()
        quiet = now >= self._heard + self._silence
        if now < self._end and not quiet:
            self._timer = self._clock.callLater(min(self._heard + self._silence, self._end) - now, self._look)
        elif now < self._end and self._half_closes:
            # Without effect as long as something is still to be sent; hence once more at the end.
            self._timer = self._clock.callLater(self._end - now, self._look)
            self._transport.loseConnection()
        else:
            self._transport.abortConnection()
