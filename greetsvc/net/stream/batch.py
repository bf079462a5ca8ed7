"""Answering many connections in a row with the same bytes, without a protocol or a transport for each."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger
from zope.interface import Interface

from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.stream.accepted import SEND_LAST

__all__ = ["MAX_CONSTANT", "Batch", "IConstantAnswer"]

_log = Logger()

MAX_CONSTANT = 512
"""Bytes that the buffer of a new socket takes as a whole."""


class IConstantAnswer(Interface):
    """A factory that may answer new connections with constant bytes, without building a protocol.

    `greetsvc.net.stream.listener.StreamPort` calls it for TCP connections where closing lingers.
    """

    def constant_answer() -> bytes | None:
        """The bytes for connections accepted in this turn, at most `MAX_CONSTANT`; None to build protocols."""

    def admit(name: tuple[Any, ...]) -> Callable[[], object] | None:  # noqa: N805 - zope's interfaces have no self
        """Whether the peer with this socket name is answered; None to build a protocol for it.

        Returns a function that is called once: when the socket is closed, or before a protocol is built after all,
        because the bytes could not be sent.
        """

    def answered(names: Sequence[tuple[Any, ...]]) -> None:  # noqa: N805
        """The bytes were handed to the kernel for the peers with these socket names."""


class Batch:
    """Connections accepted in one turn, which are all answered with ``data``."""

    def __init__(self, factory: Any, lingerers: Lingerers, data: bytes) -> None:
        self._factory = factory
        self._lingerers = lingerers
        self._data = data
        self._names: list[Any] = []
        self._closing: list[tuple[socket.SocketType, Callable[[], object]]] = []

    def answer(self, sock: socket.SocketType, name: Any) -> bool:
        """Send the bytes and the FIN. False: a protocol has to be built (which then finds out what is wrong).

        Raises what the factory raises, and `ConnectionError` for a socket that took only a part of the bytes.
        """
        leave = self._factory.admit(name)
        if leave is None:
            return False
        try:
            sent = sock.send(self._data, SEND_LAST)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            leave()
            return False
        if sent < len(self._data):
            leave()
            raise ConnectionError(f"the socket took {sent} of {len(self._data)} bytes")
        self._names.append(name)
        self._closing.append((sock, leave))
        return True

    def end(self) -> None:
        """Report the answered connections to the factory, and let their sockets linger. Raises nothing."""
        if not self._names:
            return
        self._lingerers.extend(self._closing)
        try:
            self._factory.answered(self._names)
        except Exception:  # noqa: BLE001 - the listener goes on
            _log.failure("Connections were answered, but answered() of their factory raised")
