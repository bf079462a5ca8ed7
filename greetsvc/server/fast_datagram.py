"""The daemon's datagram protocol: free answers go out in batches, without a call for each datagram."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, final

from greetsvc import wire
from greetsvc.net.datagram.port import FreeAnswer
from greetsvc.server.datagram import GreetingDatagramProtocol
from greetsvc.server.rendering import GreeterFailed
from greetsvc.visit import Address

__all__ = ["FastGreetingDatagramProtocol"]


@final
class FastGreetingDatagramProtocol(GreetingDatagramProtocol):
    """A `GreetingDatagramProtocol` that also is the ``batches`` of a `greetsvc.net.datagram.batched.BatchedPort`.

    Only the protocol ``once`` makes one, with the `UdpPolicy` and the `Ledger` of the service. It cannot be
    subclassed: for a free request the port calls neither ``datagramReceived`` nor ``greeting``, so an override would
    be called for some requests only. Subclass `GreetingDatagramProtocol` instead.
    """

    _free: FreeAnswer | None = None
    _began = 0.0

    def __init_subclass__(cls) -> None:
        raise TypeError(f"subclass GreetingDatagramProtocol; {cls.__mro__[1].__name__} would not call your overrides")

    def free_answer(self) -> FreeAnswer | None:
        """The one greeting, once it was made and if it may be sent; None where each visit gets its own."""
        greeting = self.rendering.constant
        if self._free is None and greeting is not None and self.policy.unsendable(greeting) is None:
            free = FreeAnswer(greeting, self.policy.is_free, covers_all=self.policy.are_free)
            if (ours := self.sessions) is not None:
                free = free._replace(own=ours.answer, own_at=wire.MARKED_MINIMUM, plain=wire.PADDING[0])
            self._free = free
        if self.ledger.durations is not None:
            self._began = self.ledger.durations.now()
        return self._free

    def answered(self, peers: Sequence[tuple[Any, ...]]) -> None:
        """Count the visits of ``peers``, which were answered without a call."""
        durations = self.ledger.durations
        if durations is not None:
            durations.add((durations.now() - self._began) / len(peers), len(peers))
        self.ledger.greet_all(self.kind, peers)

    def _wanted(self, request: bytes, peer: Address) -> bytes | None:
        """As inherited; and the greeting is made, so that the answers to the next batch need no calls."""
        wanted = super()._wanted(request, peer)
        if wanted is not None and not self.greeter.needs:
            with suppress(GreeterFailed):
                self.greeting(peer, request)
        return wanted

    def _judge(self, request: bytes, addr: Any) -> tuple[bytes, str | None]:
        """As inherited, without making anything of ``addr`` for a free request (on ports without batches)."""
        free = self._free or self.free_answer()
        if free is None or type(addr) is not tuple or (free.own is not None and wire.has_fields(request)):
            return super()._judge(request, addr)
        answer, group = free.answer, self._tells_group and self.transport.group  # type: ignore[attr-defined]
        if free.covers(len(answer), request, 0, len(request), addr[1], group):
            return answer, None
        return answer, self.policy.refusal(request, answer, Address.plain(addr[0], addr[1]), group=group)
