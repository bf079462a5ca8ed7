"""Calls the greeter: once for all visits where it needs nothing of them, and safely where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from greetsvc.greeters.registry import Greeter
from greetsvc.ledger import DATAGRAMS, Ledger
from greetsvc.printable import shortened
from greetsvc.visit import NOBODY, Visit

__all__ = ["FailureLog", "GreeterFailed", "Rendering"]

_QUIET = 1.0
_LONGEST = 300
"""Characters of what a greeter returned that the log shows."""

_log = Logger(namespace="greetsvc")


class FailureLog:
    """Logs failures of other people's code, at most one a second: visits must not be able to fill the log."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def tell(self, text: str, error: BaseException, **facts: Any) -> None:
        """Log this failure with its traceback, unless there was another just now."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.failure(text, Failure(error), **facts)


class GreeterFailed(Exception):
    """The greeter raised, or returned no bytes. That is counted and logged already."""


class Rendering:
    """Makes the greetings of ``greeter``. ``constant`` is the only one, where there is one and it was made already.

    A visit for which the greeter fails is counted in ``ledger`` as refused, for the reason ``greeter``.
    """

    def __init__(self, greeter: Greeter, ledger: Ledger, transport: str) -> None:
        self.greeter = greeter
        self.constant: bytes | None = None
        self._ledger = ledger
        self._refuse = ledger.refuse_datagram if transport in DATAGRAMS else ledger.refuse
        self._transport = transport
        self._failures = FailureLog()

    def of(self, visit: Callable[[], Visit]) -> bytes:
        """The greeting for the visit that ``visit()`` makes, called only if it is needed. Raises `GreeterFailed`."""
        if self.constant is not None:
            return self.constant
        made = None
        try:
            needs = self.greeter.needs
            made = visit() if needs else Visit(self._transport, NOBODY, NOBODY)
            greeting = self.greeter.greet(made)
            if not isinstance(greeting, bytes):
                raise TypeError(f"the greeter returned {shortened(repr(greeting), _LONGEST)}, which is not bytes")
        except (Exception, SystemExit) as error:  # sys.exit() in a greeter ends a visit, not the service
            if made is None or made.peer is NOBODY:
                self._refuse("greeter")
            else:
                self._ledger.refuse_peer("greeter", made.peer, self._transport)
            self._failures.tell("The greeter {greeter!r} failed", error, greeter=self.greeter)
            raise GreeterFailed from error
        if not needs:
            self.constant = greeting
        return greeting
