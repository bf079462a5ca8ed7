"""How it is said: the protocols of the service. `greetsvc.protocols.registry` finds them by their entry points.

These are the public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.protocols.framed import Int32Protocol, LinesProtocol, NetstringProtocol
    from greetsvc.protocols.framing import Framing, Receiver
    from greetsvc.protocols.plain import DatagramService, StreamService
    from greetsvc.protocols.registry import (
        Context,
        DatagramPlugin,
        Datagrams,
        ProtocolFactory,
        StreamPlugin,
        find_protocol,
    )
    from greetsvc.protocols.talking import Limits, TalkingProtocol
    from greetsvc.protocols.websocket import WebSocketProtocol
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.protocols.framed": ("Int32Protocol", "LinesProtocol", "NetstringProtocol"),
            "greetsvc.protocols.framing": ("Framing", "Receiver"),
            "greetsvc.protocols.plain": ("DatagramService", "StreamService"),
            "greetsvc.protocols.registry": (
                "Context",
                "DatagramPlugin",
                "Datagrams",
                "ProtocolFactory",
                "StreamPlugin",
                "find_protocol",
            ),
            "greetsvc.protocols.talking": ("Limits", "TalkingProtocol"),
            "greetsvc.protocols.websocket": ("WebSocketProtocol",),
        },
    )

__all__ = [
    "Context",
    "DatagramPlugin",
    "DatagramService",
    "Datagrams",
    "Framing",
    "Int32Protocol",
    "Limits",
    "LinesProtocol",
    "NetstringProtocol",
    "ProtocolFactory",
    "Receiver",
    "StreamPlugin",
    "StreamService",
    "TalkingProtocol",
    "WebSocketProtocol",
    "find_protocol",
]
