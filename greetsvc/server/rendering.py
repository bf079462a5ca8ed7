"""Asks the greeter: once for all visits where it needs nothing of them, and without harm where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.logger import Logger

from greetsvc.greeters import Greeter
from greetsvc.ledger import Ledger
from greetsvc.visit import Address, Visit

__all__ = ["Rendering", "Speechless"]

_QUIET = 1.0
"""Seconds between two log entries of a greeter that fails: visits must not be able to fill the log."""

_NOBODY = Address("", 0)
_log = Logger(namespace="greetsvc")


class Speechless(Exception):  # noqa: N818 - it says who failed
    """The greeter failed; that is counted and logged already."""


class Rendering:
    """The greetings of ``greeter``; ``constant`` is the only one, once it was rendered.

    A visit that the greeter fails for is counted as refused, for the reason ``greeter``.
    """

    def __init__(self, greeter: Greeter, ledger: Ledger, transport: str) -> None:
        self.greeter = greeter
        self.constant: bytes | None = None
        self._ledger = ledger
        self._transport = transport
        self._quiet_until = 0.0

    def of(self, visit: Callable[[], Visit]) -> bytes:
        """The greeting for the visit that ``visit()`` describes. Raises `Speechless` where the greeter failed."""
        if self.constant is not None:
            return self.constant
        try:
            needs = self.greeter.needs
            greeting = self.greeter.greet(visit() if needs else Visit(self._transport, _NOBODY, _NOBODY))
            if not isinstance(greeting, bytes):
                raise TypeError(f"the greeter said {greeting!r}, which is not bytes")
        except Exception as error:
            self._ledger.refuse("greeter")
            now = time.monotonic()
            if now >= self._quiet_until:
                self._quiet_until = now + _QUIET
                _log.failure("The greeter {greeter!r} failed", greeter=self.greeter)
            raise Speechless from error
        if not needs:
            self.constant = greeting
        return greeting
