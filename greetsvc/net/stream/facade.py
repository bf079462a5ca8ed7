"""A reactor whose stream listeners are ours.

Twisted's endpoint strings (``tcp: tcp6: ssl: tls: unix: systemd:`` and those of plugins) end in a call of
``listenTCP``, ``listenSSL``, ``listenUNIX`` or ``adoptStreamPort``. A `ListeningReactor` makes a
`greetsvc.net.stream.listener.StreamPort` for each of these, and passes every other call to the reactor behind it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.interfaces import (
    Binding,
    IProtocolFactory,
    IReactorSocket,
    IReactorSSL,
    IReactorTCP,
    IReactorUNIX,
)
from twisted.internet.tcp import makeBinding
from zope.interface import directlyProvides, providedBy

from greetsvc.net.bound import BoundSockets, BoundTo
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.sockets import MAX_BACKLOG, UnixPath, adopted_stream_socket, stream_socket, unix_stream_socket
from greetsvc.net.stream.listener import StreamPort

__all__ = ["ListeningReactor"]


class ListeningReactor:
    """``reactor``, except that its stream listeners are `StreamPort` objects, which accept nothing before `begin`.

    ``lingerers`` and ``dropped`` are those of `StreamPort`. ``v4_ports`` are the port numbers that have an IPv4
    listener of their own: an IPv6 listener on one of these does not take IPv4. ``backlog`` replaces the one that
    callers pass, as that is nearly always Twisted's default of 50. ``wrap`` is put around each factory, below TLS.
    ``prepare`` is called with each listening socket. With ``replace`` the file of a UNIX socket that no process holds
    is replaced. ``shared`` is that of `StreamPort`. ``sockets`` makes the sockets, or has them already.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        lingerers: Lingerers | None = None,
        v4_ports: Collection[int] = frozenset(),
        backlog: int = MAX_BACKLOG,
        wrap: Callable[[IProtocolFactory], IProtocolFactory] | None = None,
        prepare: Callable[[socket.socket], object] | None = None,
        dropped: Callable[[str], object] | None = None,
        replace: bool = True,
        shared: bool = False,
        sockets: BoundSockets | None = None,
    ) -> None:
        self._reactor = reactor
        self._replace = replace
        self._shared = shared
        self._sockets = BoundSockets() if sockets is None else sockets
        self._lingerers = lingerers
        self._v4_ports = v4_ports
        self._backlog = backlog
        self._wrap = wrap
        self._prepare = prepare
        self._dropped = dropped
        self._ports: list[StreamPort] = []
        self._began = False
        directlyProvides(self, IReactorTCP, IReactorSSL, IReactorUNIX, IReactorSocket, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def ports(self) -> list[StreamPort]:
        """The listeners made so far that are not closed."""
        return [port for port in self._ports if port.fileno() >= 0]

    def begin(self) -> None:
        """Start every listener made so far, and from now on each as it is made.

        Before this their sockets listen, and connections wait in the kernel's queue: a service binds before it forks.
        """
        self._began = True
        for port in self.ports:
            port.startListening()

    def listenTCP(
        self, port: int | Binding, factory: IProtocolFactory, backlog: int = 0, interface: str = ""
    ) -> StreamPort:
        """See `IReactorTCP`; ``port`` may be what `twisted.internet.tcp.makeBinding` gives.

        Raises `CannotListenError`, and `ValueError` where ``interface`` is not that of the binding.
        """
        # A plain number stands for a binding that may reuse its address, as in Twisted.
        binding: Any = makeBinding(interface, port, reuseAddress=True) if isinstance(port, int) else port
        if interface not in {"", binding._address}:
            raise ValueError(f"interface: {interface!r} is not the address of the binding, {binding._address!r}")
        host, number, v6only = binding._address or "", binding._port, binding._port in self._v4_ports
        sock = self._sockets.get(
            BoundTo("tcp", host, number, v6only),
            lambda: stream_socket(
                host,
                number,
                backlog=self._backlog,
                v6only=v6only,
                reuse_address=binding._reuseAddress,
                reuse_port=binding._reusePort,
            ),
        )
        return self._listen(sock, factory)

    def listenSSL(
        self,
        port: int | Binding,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 0,
        interface: str = "",
    ) -> StreamPort:
        """See `IReactorSSL`. Raises `CannotListenError`."""
        from twisted.protocols.tls import TLSMemoryBIOFactory  # few listeners need it

        made = self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)
        made.kind = "TLS"
        return made

    def listenUNIX(
        self,
        address: str | bytes,
        factory: IProtocolFactory,
        backlog: int = 0,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> StreamPort:
        """See `IReactorUNIX`. Raises `CannotListenError`."""
        path = os.fsdecode(address)
        sock = self._sockets.get(
            BoundTo("unix", path),
            lambda: unix_stream_socket(path, mode=mode, backlog=self._backlog, replace=self._replace),
        )
        return self._listen(sock, factory, UnixPath(path))

    def listenOn(self, bound: BoundTo, make: Callable[[], socket.socket], factory: IProtocolFactory) -> StreamPort:
        """Listen on the socket that is bound so, or that ``make`` makes. Raises `CannotListenError`."""
        return self._listen(self._sockets.get(bound, make), factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> StreamPort:
        """See `IReactorSocket`. Listens on a duplicate of the descriptor. The file of a UNIX socket is left alone.

        Raises what `adopted_stream_socket` raises.
        """
        return self._listen(adopted_stream_socket(fileDescriptor, addressFamily), factory)

    def _listen(self, sock: socket.socket, factory: IProtocolFactory, path: UnixPath | None = None) -> StreamPort:
        if sock in self._sockets.inherited:
            sock.listen(self._backlog)  # which may be another one now
        if self._prepare is not None:
            self._prepare(sock)
        if self._wrap is not None:
            factory = self._wrap(factory)
        port = StreamPort(
            sock,
            factory,
            self._reactor,
            lingerers=self._lingerers,
            path=path,
            shared=self._shared,
            dropped=self._dropped,
        )
        self._ports = [*self.ports, port]
        if self._began:
            port.startListening()
        return port
