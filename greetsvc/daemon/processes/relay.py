"""What a worker tells its parent while it serves: log events, visits and refusals.

The parent adds them to its own ledger and its own log: there is one log, with one limit of lines, and one sum.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsJSON,
    eventAsText,
    eventFromJSON,
    globalLogPublisher,
)
from zope.interface import implementer

from greetsvc.daemon.processes.channel import Channel, Message
from greetsvc.ledger import Ledger
from greetsvc.server.visit_log import READABLE, peer_address
from greetsvc.visit import Address

__all__ = ["Forwarder", "RelayObserver", "receive"]

_PAUSE = 0.2
"""Seconds between two messages about visits."""


@implementer(ILogObserver)
class RelayObserver:
    """Sends log events of the level ``least`` and above through ``channel``.

    While a worker starts, reloads or stops, its parent has told already what is not a fault of this worker.
    """

    def __init__(self, channel: Channel) -> None:
        self.least = LogLevel.error
        self._channel = channel

    def __call__(self, event: LogEvent) -> None:
        """Send one event."""
        level = LogLevel.error if event.get("isError") else event.get("log_level", LogLevel.info)
        if level >= self.least:
            self._channel.say({"log": eventAsJSON(_without_failure(event))}, may_wait=False)


def _without_failure(event: LogEvent) -> LogEvent:
    """The event with its failure as text: JSON would keep neither the exception nor what it says."""
    if event.get("log_failure") is None:
        return event
    kept: dict[str, Any] = {name: event[name] for name in ("log_level", "log_namespace", "log_time") if name in event}
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    return {**kept, "log_format": "{text}", "text": text}


class Forwarder:
    """Sends what ``ledger`` counts through ``channel``, a few times a second while there is something.

    Each message has up to `READABLE` visits and refusals with their peers, more of which nobody could read in a log;
    the rest is sums, which cost a visit nothing.
    """

    def __init__(self, ledger: Ledger, clock: IReactorTime, channel: Channel) -> None:
        self._ledger = ledger
        self._clock = clock
        self._channel = channel
        self._greeted: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._visits: list[tuple[str, str, int, float]] = []
        self._refusals: list[tuple[str, str, int, str]] = []
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Watch from now on."""
        ledger = self._ledger
        ledger.when_refused, ledger.when_peer_refused = self._wake, self._turned_away
        if self._visited not in ledger.watchers:
            ledger.watchers.append(self._visited)

    def stop(self) -> None:
        """Send the last sums, and watch no longer."""
        if self._visited in self._ledger.watchers:
            self._ledger.watchers.remove(self._visited)
        self._ledger.when_refused = self._ledger.when_peer_refused = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send()

    def _wake(self) -> None:
        self._ledger.when_refused = None
        if self._timer is None:
            self._timer = self._clock.callLater(0, self._tick)

    def _visited(self, transport: str, peer: Address) -> None:
        durations = self._ledger.durations
        self._visits.append((transport, *peer, durations.latest if durations is not None else 0.0))
        if len(self._visits) >= READABLE:
            self._ledger.watchers.remove(self._visited)
        self._wake()

    def _turned_away(self, reason: str, peer: Any, transport: str) -> None:
        self._refusals.append((reason, *peer_address(peer), transport))
        if len(self._refusals) >= READABLE:
            self._ledger.when_peer_refused = None

    def _tick(self) -> None:
        """Send at once what comes first, and what follows only after a pause."""
        self._timer = None
        if self._send():
            self._timer = self._clock.callLater(_PAUSE, self._tick)
        self.start()

    def _send(self) -> bool:
        """Send what was not sent yet; whether there was anything."""
        greeted, refused = self._ledger.greeted - self._greeted, self._ledger.refused - self._refused
        if not greeted and not refused:
            return False
        self._greeted, self._refused = self._ledger.greeted.copy(), self._ledger.refused.copy()
        greeted.subtract(transport for transport, *_ in self._visits)
        refused.subtract(reason for reason, *_ in self._refusals)
        self._channel.say(
            {"visits": self._visits, "greeted": +greeted, "refusals": self._refusals, "refused": +refused}
        )
        self._visits, self._refusals = [], []
        return True


def receive(message: Message, ledger: Ledger) -> None:
    """In the parent: log, or count in ``ledger``, what a worker told."""
    if "log" in message:
        event = eventFromJSON(message["log"])
        globalLogPublisher(
            {name: tuple(value) if isinstance(value, list) else value for name, value in event.items()}
        )
    if "visits" in message:
        for transport, host, port, seconds in message["visits"]:
            if ledger.durations is not None:
                ledger.durations.latest = seconds  # for a watcher; the counts are in the worker's figures
            ledger.greet(transport, Address(host, port), lambda peer: peer)
        for reason, host, port, transport in message["refusals"]:
            ledger.refuse_peer(reason, (host, port), transport)
        ledger.add(message["greeted"], message["refused"])
