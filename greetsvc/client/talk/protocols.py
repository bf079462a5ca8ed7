"""The protocols that this client speaks, by the names that the server has for them."""

from __future__ import annotations

from collections.abc import Callable

from greetsvc.client.talk.framing import Framing, Int32, Lines, Netstrings

__all__ = ["LINES", "PROTOCOLS", "WEBSOCKET", "framing_maker"]

LINES = "lines"
WEBSOCKET = "websocket"

_COUNTED: dict[str, type[Framing]] = {"netstring": Netstrings, "int32": Int32}

PROTOCOLS = (LINES, *_COUNTED, WEBSOCKET)


def framing_maker(protocol: str, limit: int, encoding: str, host: str) -> Callable[[], Framing]:
    """Makes the framing of a new connection to ``host``, as the header of HTTP names it.

    WebSocket's modules are loaded here, before anything is timed.
    """
    if protocol == LINES:
        return lambda: Lines(limit, encoding)
    if protocol in _COUNTED:
        return lambda: _COUNTED[protocol](limit)
    from greetsvc.client.talk.websocket import WebSocketFraming

    return lambda: WebSocketFraming(limit, host)
