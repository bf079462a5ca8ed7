"""What a protocol of the service is, and how one is found: the entry points ``greetsvc.protocols`` name them."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

from attrs import frozen
from twisted.internet.protocol import DatagramProtocol

from greetsvc.greeters.registry import Greeter, text_encoding
from greetsvc.ledger import Ledger
from greetsvc.net.datagram.port import BatchAnswers
from greetsvc.plugins import Door
from greetsvc.printable import shortened
from greetsvc.server.admission import Admission
from greetsvc.server.sessions import Sessions
from greetsvc.server.stream import GreetingFactory
from greetsvc.server.udp_policy import UdpPolicy

__all__ = [
    "Context",
    "DatagramPlugin",
    "Datagrams",
    "ProtocolFactory",
    "StreamPlugin",
    "find_protocol",
    "known_protocols",
    "made_datagrams",
    "made_factory",
]

_DOOR = Door("greetsvc.protocols", "protocol")


@frozen(eq=False)
class Context:
    """What a listener of the service gives its protocol.

    ``greeter`` makes greetings, ``encoding`` is the listener's. ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp``
    or ``unixgram``. ``ledger``, ``admission`` and ``policy`` are the counters, the limit of connections and the UDP
    rule of the whole service, ``sessions`` those of measured requests; None where the listener does not measure.
    ``deadline`` and ``linger`` are in seconds. ``reactor`` is the clock.
    """

    greeter: Greeter
    encoding: str
    transport: str
    ledger: Ledger
    admission: Admission
    policy: UdpPolicy
    sessions: Sessions | None
    deadline: float
    linger: float
    reactor: Any


@frozen(eq=False)
class Datagrams:
    """A datagram protocol with what its port has to know.

    With ``headers``, ``transport.arrival`` tells the TTL and DSCP of each datagram. ``batches`` answers without a
    call of the protocol.
    """

    protocol: DatagramProtocol
    headers: bool = False
    batches: BatchAnswers | None = None


@runtime_checkable
class StreamPlugin(Protocol):
    """A protocol for stream listeners."""

    def stream(self, context: Context, /) -> GreetingFactory:
        """The factory of one listener. It takes ledger, admission, deadline, linger and reactor of the context."""
        ...


@runtime_checkable
class DatagramPlugin(Protocol):
    """A protocol for datagram listeners."""

    def datagram(self, context: Context, /) -> Datagrams:
        """The protocol of one listener, which keeps the UDP rule of the context."""
        ...


Plugin: TypeAlias = StreamPlugin | DatagramPlugin
"""A protocol for streams, for datagrams, or for both."""


class ProtocolFactory(Protocol):
    """Makes a plugin. ``--list`` shows the first line of its docstring."""

    def __call__(self, argument: str, encoding: str, /) -> Plugin:
        """``argument`` is the text behind the colon of ``NAME:ARGUMENT``, ``encoding`` the name of a text encoding.

        Raises `ValueError` or `OSError` with one line that says what is wrong.
        """
        ...


def find_protocol(name: str, argument: str, encoding: str) -> Plugin:
    """The protocol ``name``, made from its argument. Raises `ValueError` or `OSError` with one line."""
    made = _DOOR.make(name, argument, text_encoding(encoding))
    if not isinstance(made, StreamPlugin | DatagramPlugin):
        raise ValueError(f"the protocol {name!r} is {made!r}, which has neither stream() nor datagram()")
    return made


def made_factory(plugin: StreamPlugin, context: Context) -> GreetingFactory:
    """The factory that a plugin makes. Raises `TypeError` for anything else, and what the plugin raises.

    Without the ledger and the admission of the context, its visits would not be counted, logged and limited.
    """
    made = plugin.stream(context)
    if not isinstance(made, GreetingFactory):
        raise TypeError(f"stream() returned {_shown(made)}, which is no GreetingFactory")
    for name in ("ledger", "admission"):
        if getattr(made, name) is not getattr(context, name):
            raise TypeError(f"the factory that stream() returned has another {name} than its context")
    return made


def made_datagrams(plugin: DatagramPlugin, context: Context) -> Datagrams:
    """What a plugin makes for datagrams. Raises `TypeError` for anything else, and what the plugin raises."""
    made = plugin.datagram(context)
    if not isinstance(made, Datagrams) or not hasattr(made.protocol, "datagramReceived"):
        raise TypeError(f"datagram() returned {_shown(made)}, which is no Datagrams with a protocol")
    return made


def _shown(made: object) -> str:
    return shortened(repr(made), 100)


def known_protocols() -> list[tuple[str, str]]:
    """The name of each protocol with the first line of its docstring, or why it cannot be used."""
    return _DOOR.known()
