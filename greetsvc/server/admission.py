"""Which connections are admitted: how many may be open at once, in all and from one source. No sockets, no time."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial

from greetsvc.server.sources import Hasher, is_loopback, prefix
from greetsvc.visit import Address

__all__ = ["Admission", "Source"]

TABLE_SIZE = 16384
"""Entries in each table of sources. Sources that collide share an entry, and so a limit."""

SITE_FACTOR = 8
"""How many times the limit of an IPv6 /56 the /48 around it may have open."""

Source = tuple[int, ...]
"""The table entries that a connection counts in: none where its source has no limit."""


class Admission:
    """Counts open connections, lingering ones included, in all and by source.

    At most ``max_connections`` may be open in all, and ``max_per_source`` from one source: an IPv4 /24 or an IPv6
    /56. The IPv6 /48 around it may have eight times as many. None means no limit. ``exempt_loopback`` exempts this
    machine's loopback addresses from the limit by source.

    ``open`` is the number of open connections; ``when_empty`` is called each time it becomes 0.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        max_per_source: int | None = None,
        exempt_loopback: bool = True,
    ) -> None:
        self.open = 0
        self.when_empty: Callable[[], object] | None = None
        self.limit(max_connections=max_connections, max_per_source=max_per_source, exempt_loopback=exempt_loopback)
        self._hasher = Hasher(TABLE_SIZE)
        self._by_source = array("L", bytes(array("L").itemsize * TABLE_SIZE))
        self._by_site = array("L", self._by_source)

    @property
    def max_connections(self) -> int | None:
        """How many connections may be open in all; None without a limit."""
        return self._max_connections

    def limit(self, *, max_connections: int | None, max_per_source: int | None, exempt_loopback: bool) -> None:
        """Use other limits from now on. Connections that are open already stay, and count."""
        self._max_connections = max_connections
        self._max_per_source = max_per_source
        self._exempt_loopback = exempt_loopback

    def source(self, host: str) -> Source:
        """The source of an address. A peer without an IP address (a UNIX socket) has none."""
        host = Address.plain(host).host if ":" in host else host
        if self._max_per_source is None or (self._exempt_loopback and is_loopback(host)):
            return ()
        try:
            index = self._hasher.index(prefix(host, 24, 56))
        except ValueError:
            return ()
        return (index, self._hasher.index(prefix(host, 0, 48))) if ":" in host else (index,)

    def refusal(self, source: Source) -> str | None:
        """Why a connection from ``source`` is refused now: ``max-connections`` or ``max-per-source``; None if not."""
        if self._max_connections is not None and self.open >= self._max_connections:
            return "max-connections"
        if source and self._max_per_source is not None:
            if self._by_source[source[0]] >= self._max_per_source:
                return "max-per-source"
            if len(source) > 1 and self._by_site[source[1]] >= self._max_per_source * SITE_FACTOR:
                return "max-per-source"
        return None

    def has_room(self) -> bool:
        """Whether one more connection may be open, from any source."""
        return self._max_connections is None or self.open < self._max_connections

    def admit(self, host: str) -> Callable[[], object] | None:
        """`source`, `refusal` and `enter` in one call: the function that leaves, or None where it is refused."""
        if self._max_connections is not None and self.open >= self._max_connections:
            return None
        if self._max_per_source is None or (self._exempt_loopback and host.startswith("127.")):
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
        """A connection that entered is closed, and its socket too."""
        self.open -= 1
        if source:
            self._count(source, -1)
        if not self.open and self.when_empty is not None:
            self.when_empty()

    def hand_over(self, pass_on: Callable[[], object]) -> None:
        """Give up the place of a connection without a source, so that ``pass_on()`` can let it enter with one.

        It does not count while ``pass_on()`` runs, and ``when_empty`` is not called before that has returned.
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
        for table, index in zip((self._by_source, self._by_site), source, strict=False):
            table[index] += step
