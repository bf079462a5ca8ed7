"""asyncio's Protocols, on its own loop or on uvloop.

`python -m bench.servers.aio asyncio|uvloop tcp|udp|hold|lines`.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module

from bench.servers import BACKLOG, GREETING, HOST, ready


class Greet(asyncio.Protocol):
    """Write, then close."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        transport.write(GREETING)  # type: ignore[attr-defined]
        transport.close()


class GreetAndStay(asyncio.Protocol):
    """Write, and keep the connection: what a held one takes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = transport
        transport.write(GREETING)  # type: ignore[attr-defined]


class Talk(asyncio.Protocol):
    """Greet, then greet each name; lines of at most 4096 bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.rest = b""
        self.transport.write(b"Hello, stranger\r\n")

    def data_received(self, data: bytes) -> None:
        """Greet who is named."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if len(line) > 4096:
                self.transport.close()
                return
            name = line.decode("utf-8").removesuffix("\r")
            self.transport.write(f"Hello, {name}\r\n".encode())
        if len(self.rest) > 4096:
            self.transport.close()


class Answer(asyncio.DatagramProtocol):
    """Answer whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Greet the sender."""
        self.transport.sendto(GREETING, addr)  # type: ignore[attr-defined]


async def main(kind: str) -> None:
    """Listen, say where, and stay."""
    loop = asyncio.get_running_loop()
    if kind == "udp":
        transport, _ = await loop.create_datagram_endpoint(Answer, local_addr=(HOST, 0))
        ready(transport.get_extra_info("sockname")[1])
    else:
        greeter: type[asyncio.Protocol] = {"hold": GreetAndStay, "lines": Talk}.get(kind, Greet)
        server = await loop.create_server(greeter, HOST, 0, backlog=BACKLOG)
        ready(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def loop_factory(name: str) -> asyncio.AbstractEventLoop:
    """The loop of that name."""
    if name == "asyncio":
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    return loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: loop_factory(sys.argv[1])) as runner:
        runner.run(main(sys.argv[2]))
