"""Which connection is greeted now: how many are open at once, in all and by source. No sockets, no time."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial

from greetsvc.server.sources import Hasher, is_loopback, prefix
from greetsvc.visit import Address

__all__ = ["Admission", "Source"]

ENTRIES = 16384
"""Entries of the table of sources; those that collide share one."""

SITE = 8
"""How many times the limit of an IPv6 /56 the whole /48 around it may hold."""

Source = tuple[int, ...]
"""The entries that a connection counts in; empty for a source that is not limited."""


class Admission:
    """Counts open connections, lingering ones included, in all and for each source.

    A source is an IPv4 /24 or an IPv6 /56, which may hold ``per_source`` connections, and an IPv6 /48, which may
    hold eight times that. ``None`` means no limit. ``exempt_loopback`` leaves this machine's own sources unlimited.
    """

    def __init__(
        self, *, most: int | None = None, per_source: int | None = None, exempt_loopback: bool = True
    ) -> None:
        self.open = 0
        self.when_empty: Callable[[], object] | None = None
        self._most = most
        self._per_source = per_source
        self._exempt_loopback = exempt_loopback
        self._hasher = Hasher(ENTRIES)
        self._held = array("L", bytes(array("L").itemsize * ENTRIES))
        self._held_by_site = array("L", self._held)

    def source(self, host: str) -> Source:
        """The entries for an address; a peer that is no IP address (a UNIX socket) has no source."""
        host = Address.plain(host).host if ":" in host else host
        if self._per_source is None or (self._exempt_loopback and is_loopback(host)):
            return ()
        try:
            index = self._hasher.index(prefix(host, 24, 56))
        except ValueError:
            return ()
        return (index, self._hasher.index(prefix(host, 0, 48))) if ":" in host else (index,)

    def refusal(self, source: Source) -> str | None:
        """Why a connection from ``source`` is not taken now: ``max-connections`` or ``max-per-source``, or None."""
        if self._most is not None and self.open >= self._most:
            return "max-connections"
        if source and self._per_source is not None:
            if self._held[source[0]] >= self._per_source:
                return "max-per-source"
            if len(source) > 1 and self._held_by_site[source[1]] >= self._per_source * SITE:
                return "max-per-source"
        return None

    def has_room(self) -> bool:
        """Whether one more connection may be open, wherever it comes from."""
        return self._most is None or self.open < self._most

    def admit(self, host: str) -> Callable[[], object] | None:
        """As `source`, `refusal` and `enter` in one: what to call when the connection is closed, or None."""
        if self._most is not None and self.open >= self._most:
            return None
        if self._per_source is None or (self._exempt_loopback and host.startswith("127.")):
            self.open += 1
            return self.leave
        source = self.source(host)
        if self.refusal(source) is not None:
            return None
        self.enter(source)
        return partial(self.leave, source)

    def enter(self, source: Source) -> None:
        """A connection from ``source`` is open."""
        self.open += 1
        if source:
            self._count(source, 1)

    def leave(self, source: Source = ()) -> None:
        """A connection that entered is closed, its socket too."""
        self.open -= 1
        if source:
            self._count(source, -1)
        if not self.open and self.when_empty is not None:
            self.when_empty()

    def hand_over(self, pass_on: Callable[[], object]) -> None:
        """A connection without a source is about to tell it: ``pass_on()`` lets it enter once more, or not.

        It does not count meanwhile, yet nothing is empty before that is done.
        """
        when_empty, self.when_empty = self.when_empty, None
        self.open -= 1
        try:
            pass_on()
        finally:
            self.when_empty = when_empty
        if not self.open and when_empty is not None:
            when_empty()

    def _count(self, source: Source, step: int) -> None:
        for table, index in zip((self._held, self._held_by_site), source, strict=False):
            table[index] += step
