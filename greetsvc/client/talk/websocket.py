"""WebSocket (RFC 6455) as a framing: text messages on wsproto, which Twisted's ``websocket`` extra installs."""

from __future__ import annotations

from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from greetsvc.client.talk.framing import BadFrame, Framing

__all__ = ["WebSocketFraming"]

_NORMAL = 1000
"""The status of a close frame when the purpose is fulfilled (RFC 6455 7.4.1)."""


_OPEN = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)

_MAX_PINGS = 10_000
"""Pings between two messages. Each is answered, and a server that reads none of the answers would fill the memory."""


class WebSocketFraming(Framing):
    """The client's end: the upgrade of ``/``, then text messages; pings and close frames are answered."""

    def __init__(self, limit: int, host: str) -> None:
        super().__init__(limit)
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._host = host
        self._parts: list[bytes] = []
        self._length = 0
        self._replies = b""
        self._pings = 0

    @property
    def partial(self) -> bytes:
        """The parts of a message that is not whole; of a frame that is not, wsproto gives nothing."""
        return b"".join(self._parts)

    def opening(self) -> bytes:
        """The HTTP request for the upgrade."""
        return self._connection.send(Request(host=self._host, target="/"))

    def encode(self, message: bytes) -> bytes:
        """A text message."""
        return self._connection.send(TextMessage(message.decode()))

    def feed(self, data: bytes) -> list[bytes]:
        """The messages, text or binary, that are whole now."""
        found: list[bytes] = []
        if self._connection.state is ConnectionState.CLOSED:
            return found
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, Message):
                    found += self._part(event)
                elif isinstance(event, Ping):
                    self.pinged = True
                    self._pings += 1
                    if self._pings > _MAX_PINGS:
                        raise BadFrame(f"more than {_MAX_PINGS} pings came without a message between them")
                    self._replies += self._connection.send(event.response())
                elif isinstance(event, CloseConnection):
                    if self._connection.state in _OPEN:  # the server did not close: wsproto wants to, for what came
                        raise BadFrame(f"what came is not WebSocket: {event.reason}")
                    self.farewell = " ".join(filter(None, [f"status {int(event.code)}", event.reason]))
                    if self._connection.state is ConnectionState.REMOTE_CLOSING:
                        self._replies += self._connection.send(event.response())
                elif isinstance(event, RejectConnection):
                    raise BadFrame(f"the server refuses WebSocket: HTTP status {event.status_code}")
        except RemoteProtocolError as error:
            raise BadFrame(f"what came is not WebSocket: {error}") from None
        return found

    def _part(self, event: Message[Any]) -> list[bytes]:
        """The message that ends with this part of it."""
        part = bytes(event.data) if isinstance(event, BytesMessage) else str(event.data).encode()
        self._parts.append(part)
        self._length += len(part)
        self._check(self._length)
        if not event.message_finished:
            return []
        message, self._parts, self._length, self._pings = b"".join(self._parts), [], 0, 0
        return [message]

    def replies(self) -> bytes:
        """Pongs, and the answer to a close frame."""
        replies, self._replies = self._replies, b""
        return replies

    def closing(self) -> bytes:
        """A close frame."""
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(CloseConnection(code=_NORMAL))
