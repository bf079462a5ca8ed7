"""How it is said: the protocols and factories that greet, the limits, and the counters.

These are the public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.ledger import Ledger
    from greetsvc.server.admission import Admission
    from greetsvc.server.datagram import GreetingDatagramProtocol
    from greetsvc.server.rendering import GreeterFailed
    from greetsvc.server.sessions import Sessions
    from greetsvc.server.stream import GreetingFactory, GreetingProtocol
    from greetsvc.server.udp_policy import UdpPolicy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.ledger": ("Ledger",),
            "greetsvc.server.admission": ("Admission",),
            "greetsvc.server.datagram": ("GreetingDatagramProtocol",),
            "greetsvc.server.rendering": ("GreeterFailed",),
            "greetsvc.server.sessions": ("Sessions",),
            "greetsvc.server.stream": ("GreetingFactory", "GreetingProtocol"),
            "greetsvc.server.udp_policy": ("UdpPolicy",),
        },
    )

__all__ = [
    "Admission",
    "GreeterFailed",
    "GreetingDatagramProtocol",
    "GreetingFactory",
    "GreetingProtocol",
    "Ledger",
    "Sessions",
    "UdpPolicy",
]
