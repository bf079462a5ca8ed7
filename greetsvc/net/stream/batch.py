"""Answering many at once: for who says the same to each, so that it need not be asked about each."""

from __future__ import annotations

import sys
from socket import MSG_DONTWAIT, SHUT_WR
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from zope.interface import Interface

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from greetsvc.net.linger.sweep import Lingerers

__all__ = ["FIN", "SEND", "SEND_LAST", "SHORT", "Batch", "IAnswersAtOnce", "itself"]

_log = Logger()

FIN = SHUT_WR
SEND = MSG_DONTWAIT
SEND_LAST = SEND
"""The flags for bytes that are followed by the FIN."""

if sys.platform == "linux":
    from socket import MSG_MORE

    # What is said to follow is the FIN, in the same segment (tcp(7)).
    SEND_LAST |= MSG_MORE

SHORT = 512
"""Bytes that a new socket takes whole, or not at all."""


class IAnswersAtOnce(Interface):
    """A factory that may answer new peers at once: neither a protocol nor a transport is made then.

    `greetsvc.net.stream.listener.StreamPort` asks it for TCP peers, where closing lingers.
    """

    def at_once() -> bytes | None:
        """What new peers read until the next turn of the reactor, up to `SHORT` bytes; None to build protocols."""

    def admit(name: tuple[Any, ...]) -> Callable[[], object] | None:  # noqa: N805
        """Whether the peer with this name (as `accept` has it) reads it: None to build a protocol.

        What is returned is called once: when the socket is closed, or before a protocol is built after all, because
        the bytes could not be sent.
        """

    def answered(names: Sequence[tuple[Any, ...]]) -> None:  # noqa: N805
        """The bytes were handed to the network for the peers with these names."""


def itself(asked: Any, interface: Any) -> Any:
    """``asked``, if its own class implements ``interface``, or None.

    A wrapper that hands on the attributes of what it wraps provides the interface, and would be passed by.
    """
    return asked if interface.implementedBy(type(asked)) else None


class Batch:
    """Connections accepted in a row, all of which read ``data``."""

    def __init__(self, factory: Any, lingerers: Lingerers, data: bytes) -> None:
        self._factory = factory
        self._lingerers = lingerers
        self._data = data
        self._names: list[Any] = []
        self._closing: list[tuple[socket.SocketType, Callable[[], object]]] = []

    def answer(self, sock: socket.SocketType, name: Any) -> bool:
        """Send the bytes and the FIN; False to have a protocol built, which finds out what is wrong.

        Raises what the factory does, and `ConnectionError` for a socket that took a part of the bytes.
        """
        leave = self._factory.admit(name)
        if leave is None:
            return False
        try:
            sent = sock.send(self._data, SEND_LAST)
            sock.shutdown(FIN)
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
        """Count those that were answered, and let their sockets linger. Raises nothing."""
        if not self._names:
            return
        self._lingerers.extend(self._closing)
        try:
            self._factory.answered(self._names)
        except Exception:  # noqa: BLE001 - the listener goes on
            _log.failure("Connections are answered, but their factory failed")
