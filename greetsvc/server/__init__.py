"""How it is said: the protocols and factories that greet, and who is greeted now."""

from greetsvc.server.datagram import GreetingDatagramProtocol
from greetsvc.server.stream import GreetingFactory, GreetingProtocol

__all__ = ["GreetingDatagramProtocol", "GreetingFactory", "GreetingProtocol"]
