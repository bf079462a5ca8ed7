"""The factory of the daemon: while all visitors read the same short greeting, it answers without protocols."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, final

from zope.interface import implementer

from greetsvc.net.address import address_factory
from greetsvc.net.stream.batch import MAX_CONSTANT, IConstantAnswer
from greetsvc.server.stream import GreetingFactory, address_of
from greetsvc.visit import Address

__all__ = ["FastGreetingFactory"]

_ADDRESSES = {2: address_factory(socket.AF_INET, "TCP"), 4: address_factory(socket.AF_INET6, "TCP")}
"""By the length of a socket name."""


@final
@implementer(IConstantAnswer)
class FastGreetingFactory(GreetingFactory):
    """A `GreetingFactory` that, over plain TCP, answers without protocols once it has rendered a constant greeting.

    It limits and counts as `GreetingFactory` does, but does not call the hooks of its protocol, its admission and its
    ledger. So only the protocol ``once`` makes one, and it cannot be subclassed: subclass `GreetingFactory` or
    `GreetingProtocol`, whose hooks are called for every connection.
    """

    _began = 0.0

    def __init_subclass__(cls) -> None:
        raise TypeError("FastGreetingFactory cannot be subclassed, as its hooks are not called: use GreetingFactory")

    def constant_answer(self) -> bytes | None:
        """See `IConstantAnswer`: the greeting, if it is constant, rendered before, and short."""
        greeting = self._rendering.constant
        if self.ledger.durations is not None:
            self._began = self.ledger.durations.now()
        return greeting if greeting is not None and len(greeting) <= MAX_CONSTANT else None

    def admit(self, name: tuple[Any, ...]) -> Callable[[], object] | None:
        """See `IConstantAnswer`. `buildProtocol` refuses, and counts, the peers that are not admitted."""
        return self.admission.admit(name[0])

    def answered(self, names: Sequence[tuple[Any, ...]]) -> None:
        """See `IConstantAnswer`."""
        durations = self.ledger.durations
        if durations is not None:
            durations.add((durations.now() - self._began) / len(names), len(names))
        self.ledger.greet_all(self.transport, names, _address)


def _address(name: tuple[Any, ...]) -> Address:
    return address_of(_ADDRESSES[len(name)](name))
