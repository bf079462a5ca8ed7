"""Answering datagrams in batches: what a port must know to answer without calling the protocol for each datagram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["BatchAnswers", "Covers", "FreeAnswer"]

Covers = Callable[[int, bytes | bytearray, int, int, int, bool], bool]


class FreeAnswer(NamedTuple):
    """One answer, and which requests get it without a call of the protocol.

    ``covers(len(answer), data, start, end, port, group)`` decides: the request is ``data[start:end]``, it came from
    ``port``, and ``group`` says that it was sent to a broadcast or multicast address. It must have no side effect.
    """

    answer: bytes
    covers: Covers


class BatchAnswers(Protocol):
    """Says what `greetsvc.net.datagram.batched.BatchedPort` may answer without calling ``datagramReceived``."""

    def free_answer(self) -> FreeAnswer | None:
        """The answer for the batch that was just read; None to have the protocol called for every datagram."""
        ...

    def answered(self, peers: Sequence[tuple[Any, ...]]) -> None:
        """The answer was handed to the kernel for these peers, each a tuple that begins with host and port."""
        ...
