"""Measured answers: how many requests of a session arrived, how many answers it got, and when.

A session is one run of a client, which names it with a random number. Whoever does not know that number cannot change
what is counted of it. No sockets here; the clock is passed in; the table has a fixed size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from mmap import MAP_PRIVATE, mmap
from typing import Any

from greetsvc.server.sources import Hasher
from greetsvc.wire import COUNTED, WRAP, count_of, encode_measured

__all__ = ["ENTRIES", "IDLE", "WAYS", "Sessions"]

ENTRIES = 1 << 18
"""Sessions that are counted at the same time; 20 bytes each, which take no memory before they are used."""

WAYS = 16
"""Entries in a set. The keyed hash of a session chooses its set, so nobody can choose to be in that of another.

With 100,000 other sessions in `IDLE` seconds, a new one finds its set full 6 times in 10,000.
"""

IDLE = 60
"""A session that was silent this long, in seconds, gives way to a new one when its set is full. No other does."""

_SECOND = 1_000_000_000
_as_greet_asks = COUNTED.match
_MAX_KNOWN = 4096
_NAME = 8  # bytes of the hash that names a session
_FREE = bytes(_NAME)


class Sessions:
    """Counts the requests of sessions, and makes their measured answers.

    ``now`` is CLOCK_REALTIME in nanoseconds. Each request that is counted gets one answer, so one count is enough.

    A session in the table stays there while it sends. A new one that finds its set full of such sessions is not
    counted: its requests are greeted in the ordinary way. Two sessions count as one when all 64 bits of their hashes
    are equal: of 100,000 forged ones, one is like yours once in 10**14 times.
    """

    def __init__(self, now: Callable[[], int] = time.time_ns, *, entries: int = ENTRIES) -> None:
        self._now = now
        self._hasher = Hasher(1 << 64)
        self._sets = entries // WAYS
        # The kernel gives pages of zeros only when they are used. A bytearray would write its zeros at once: 5 MB.
        self._names = mmap(-1, entries * _NAME, MAP_PRIVATE)
        self._counts = memoryview(mmap(-1, entries * 4, MAP_PRIVATE)).cast("I")
        self._latest = memoryview(mmap(-1, entries * 8, MAP_PRIVATE)).cast("Q")
        # The entries of the sessions of the present second, as to look for one costs as much as all the rest.
        self._known: dict[bytes, int] = {}
        self._from = self._until = 0

    def answer(  # noqa: PLR0917 - called for each measured request of a batch, where keywords would cost time
        self,
        data: bytes | bytearray,
        start: int,
        end: int,
        rx: int | None,
        ttl: int | None,
        tos: int | None,
        padded: int = 0,
        wanted: str = "count",
    ) -> bytes | None:
        """The measured answer to the request ``data[start:end]``; None where it gets the ordinary greeting.

        ``rx`` is when the request arrived, in nanoseconds; None: now. ``ttl`` and ``tos`` are those of its header.
        ``wanted`` is what the request asks for with ``w=``. The answer is shorter than the request, as a free answer
        is. A request that gets none is not counted. One that wants its answer ``padded`` to a number of bytes gets it
        only where that is given.
        """
        found = None if padded or wanted != "count" else _as_greet_asks(data, start, end)
        asked: Any = (
            count_of(bytes(data[start:end]), padded=padded > 0, wanted=wanted) if found is None else found.groups()
        )
        if asked is None:
            return None
        repeated, session = asked
        tx = self._now()
        if tx >= self._until or tx < self._from:
            self._known.clear()
            self._from, self._until = tx, tx + _SECOND
        entry = self._known.get(session)
        if entry is None:
            entry = self._entry(session, tx)
            if entry is None:
                return None
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[session] = entry
        counts = self._counts
        count = (counts[entry] + 1) % WRAP
        size = end - start
        answer = encode_measured(repeated, count, count, tx if rx is None else rx, tx, ttl, tos, size)
        if padded:
            answer = answer.ljust(padded)
        if len(answer) >= size:
            return None
        counts[entry] = count
        return answer

    def _entry(self, session: bytes, now: int) -> int | None:
        """The entry of a session, which is its own from now on; None where its set is full."""
        hashed = self._hasher.index(session) or 1  # 0 is a free entry
        name, start = hashed.to_bytes(_NAME, "big"), hashed % self._sets * WAYS
        entry = self._find(name, start)
        if entry is None:
            entry = self._find(_FREE, start)
            if entry is None:
                latest = self._latest[start : start + WAYS].tolist()
                oldest = min(latest)
                if now - oldest < IDLE * _SECOND:
                    return None
                entry = start + latest.index(oldest)
            self._names[entry * _NAME : entry * _NAME + _NAME] = name
            self._counts[entry] = 0
        self._latest[entry] = now
        return entry

    def _find(self, name: bytes, start: int) -> int | None:
        """The entry with this name in the set of entries from ``start``."""
        first = start * _NAME
        at = self._names.find(name, first, first + WAYS * _NAME)
        while at >= 0 and at % _NAME:  # bytes of two neighbours
            at = self._names.find(name, at + 1, first + WAYS * _NAME)
        return None if at < 0 else at // _NAME
