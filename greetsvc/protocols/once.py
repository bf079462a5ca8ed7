"""The protocol ``once``, which is the default: greet and close, over streams and datagrams."""

from __future__ import annotations

from greetsvc.protocols.registry import Context, Datagrams
from greetsvc.server.fast_datagram import FastGreetingDatagramProtocol
from greetsvc.server.fast_stream import FastGreetingFactory

__all__ = ["Once"]


class Once:
    """Greets and closes."""

    @classmethod
    def from_argument(cls, argument: str, _encoding: str) -> Once:
        """It has no options."""
        if argument:
            raise ValueError(f"once takes no options, not {argument!r}")
        return cls()

    def stream(self, context: Context) -> FastGreetingFactory:
        """The factory of a stream listener."""
        return FastGreetingFactory(
            context.greeter,
            ledger=context.ledger,
            admission=context.admission,
            deadline=context.deadline,
            linger=context.linger,
            transport=context.transport,
            reactor=context.reactor,
        )

    def datagram(self, context: Context) -> Datagrams:
        """The protocol of a datagram listener."""
        sessions = None if context.transport == "unixgram" else context.sessions
        protocol = FastGreetingDatagramProtocol(
            context.greeter,
            ledger=context.ledger,
            policy=context.policy,
            sessions=sessions,
            transport=context.transport,
        )
        headers = sessions is not None or "path" in context.greeter.needs
        return Datagrams(protocol, headers=headers, batches=protocol)
