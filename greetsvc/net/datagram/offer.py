"""Answering datagrams in batches, for a protocol that gives everybody the same and can say to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen
from zope.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["IAnswersInBatches", "Offer"]


class IAnswersInBatches(Interface):
    """A `DatagramProtocol` that gives everybody the same answer, and can say to whom without being called for each.

    `greetsvc.net.datagram.batched.BatchedPort` asks it. What it does not answer so goes to ``datagramReceived``.
    """

    def in_batches() -> Offer | None:
        """What is answered, and to whom, until the next turn of the reactor; None to be called for each datagram."""

    def answered(names: Sequence[tuple[Any, ...]]) -> None:  # noqa: N805
        """The answer was handed to the network for the peers with these names."""


@frozen
class Offer:
    """An ``answer`` to whatever begins with ``mark``, is longer than it, and was not sent to a group.

    Not to ports below ``lowest_port``, nor to ``own_ports``.
    """

    answer: bytes
    mark: bytes
    lowest_port: int
    own_ports: Collection[int]
