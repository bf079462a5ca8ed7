"""Every number that the admin site shows, as plain data: taken at one moment, added up over workers, sent as JSON."""

from __future__ import annotations

import json
import operator
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, fields, frozen

import twisted
from greetsvc._version import __version__
from greetsvc.ledger import BOUNDS, Durations, Ledger

__all__ = ["Figures", "Histogram", "take"]

_BEGUN = time.time()
_PLUS, _NOW = "plus", "now"


@frozen
class Histogram:
    """Durations by size: how many fell into each bucket of `greetsvc.ledger.BOUNDS`, the last without a bound.

    ``total`` is their sum in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    @classmethod
    def of(cls, durations: Durations) -> Histogram:
        """What was counted so far."""
        return cls(tuple(durations.counts), durations.total)

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(map(operator.add, self.counts, other.counts))
        return Histogram(counts, self.total + other.total)


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _most(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _earliest(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: min(given[name] for given in (one, other) if name in given) for name in {**one, **other}}


# How the figures of two processes become one; those `_NOW` end with their process, the others are counts.
_SUM: dict[str, Any] = {_PLUS: operator.add}
_SUM_NOW: dict[str, Any] = {**_SUM, _NOW: True}
_SUM_BY_NAME: dict[str, Any] = {_PLUS: _added}
_MOST_BY_NAME: dict[str, Any] = {_PLUS: _most}
_EARLIEST_BY_NAME: dict[str, Any] = {_PLUS: _earliest, _NOW: True}
_EARLIEST: dict[str, Any] = {_PLUS: min}
_BOTH: dict[str, Any] = {_PLUS: operator.and_}
_FIRST: dict[str, Any] = {_PLUS: lambda one, _other: one}
_FULLER_NOW: dict[str, Any] = {_PLUS: lambda one, other: one.fuller(other), _NOW: True}


@frozen
class Descriptors:
    """The file descriptors of a process: how many are open, and how many there may be."""

    used: int = 0
    allowed: int = 0

    def fuller(self, other: Descriptors) -> Descriptors:
        """Those of the process that is nearer to its limit: it is the first to refuse, whatever the other has."""
        return max(self, other, key=lambda one: (one.used / max(one.allowed, 1), one.allowed))


@frozen(kw_only=True)
class Figures:
    """The figures of one process, or with ``+`` of several: those of the same service, which read the same settings.

    Times are in seconds since 1970, durations in seconds.
    """

    greeted: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Greetings, by transport."""
    refused: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Connections that were not greeted, by reason, except where TLS failed."""
    unanswered: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Datagrams that were not answered, by reason."""
    tls_failed: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Connections on which TLS failed, by reason (`greetsvc.net.tls.transport.TlsFailure`)."""
    answered: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Messages that were answered on connections that go on, by transport."""
    ended_for: Mapping[str, int] = field(factory=dict, metadata=_SUM_BY_NAME)
    """Such connections that were ended because of what the peer sent, by reason."""
    open: int = field(default=0, metadata=_SUM_NOW)
    """Open connections, lingering ones included."""
    lingering: int = field(default=0, metadata=_SUM_NOW)
    """Those of them that have been greeted, and wait for their peer to close."""
    open_allowed: int = field(default=0, metadata=_SUM_NOW)
    """How many connections may be open."""
    greeting_seconds: Histogram = field(factory=Histogram, metadata=_SUM)
    """From the start of a connection (TLS: before its handshake), or the arrival of a datagram in this process, until
    the greeting was handed to the kernel."""
    loop_delay: Histogram = field(factory=Histogram, metadata=_SUM)
    """How late the reactor called a timer."""
    descriptors: Descriptors = field(factory=Descriptors, metadata=_FULLER_NOW)
    """Of several processes, those of the one that is nearest to its limit."""
    memory: int = field(default=0, metadata=_SUM_NOW)
    """Resident memory in bytes; 0 where it is not known."""
    cpu_seconds: float = field(default=0.0, metadata=_SUM)
    """Processor time, user and system."""
    certificates: Mapping[str, float] = field(factory=dict, metadata=_EARLIEST_BY_NAME)
    """When the certificate for each name expires."""
    reloads: Mapping[str, int] = field(factory=dict, metadata=_MOST_BY_NAME)
    """Reloads of the settings, by result: ``ok`` or ``failed``. Of workers, which reload together, the most."""
    reload_ok: bool = field(default=True, metadata=_BOTH)
    """Whether the last reload succeeded, or there was none."""
    workers: int = field(default=1, metadata=_SUM_NOW)
    """Processes that greet."""
    workers_restarted: int = field(default=0, metadata=_SUM)
    """Workers that were replaced because they ended."""
    started: float = field(default=_BEGUN, metadata=_EARLIEST)
    """When the service started."""
    build: Mapping[str, str] = field(factory=dict, metadata=_FIRST)
    """The versions of greetsvc, Python and Twisted, by the names ``version``, ``python`` and ``twisted``."""

    def __add__(self, other: Figures) -> Figures:
        plus = {one.name: one.metadata[_PLUS] for one in fields(Figures)}
        return Figures(**{name: add(getattr(self, name), getattr(other, name)) for name, add in plus.items()})

    def ended(self) -> Figures:
        """What remains of them when the process has ended: its counts, so that sums over workers do not go back."""
        own: dict[str, Any] = {"certificates": {}, "descriptors": Descriptors()}
        gone = {one.name: own.get(one.name, 0) for one in fields(Figures) if _NOW in one.metadata}
        return evolve(self, **gone)

    def as_json(self) -> str:
        """One line of JSON, from which `from_json` makes the same figures."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Figures:
        """The figures that `as_json` wrote. Raises `ValueError` or `TypeError` where it did not."""
        given = json.loads(text)
        for name in ("greeting_seconds", "loop_delay"):
            given[name] = Histogram(tuple(given[name]["counts"]), given[name]["total"])
        given["descriptors"] = Descriptors(**given["descriptors"])
        return cls(**given)


def take(ledger: Ledger, transports: Mapping[str, int] | None = None, **others: Any) -> Figures:
    """The figures of this process now: from ``ledger``, of the process itself, and ``others`` as they are given.

    ``transports`` that nobody has used yet count 0 greetings: Prometheus sees a first one only after that.
    """
    tls_failed = {reason: count for reason, count in ledger.refused.items() if reason.startswith("tls-")}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Figures(
        greeted={**(transports or {}), **ledger.greeted},
        refused=dict(ledger.refused - ledger.unanswered - Counter(tls_failed)),
        unanswered=dict(ledger.unanswered),
        tls_failed=tls_failed,
        answered=dict(ledger.answered),
        ended_for=dict(ledger.ended),
        greeting_seconds=Histogram.of(ledger.durations) if ledger.durations is not None else Histogram(),
        descriptors=Descriptors(_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        memory=_memory(),
        cpu_seconds=used.ru_utime + used.ru_stime,
        build={"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__},
        **others,
    )


def _descriptors() -> int:
    """The open descriptors: Linux 6.2 and later tell their number at once, instead of a list of all of them."""
    folder = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
    try:
        return (
            folder.stat().st_size if sys.platform == "linux" and folder.stat().st_size else len([*folder.iterdir()])
        )
    except OSError:
        return 0


def _memory() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
