"""Turns each listener of the settings into a bound socket with its protocol, ready to be served."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure

from greetsvc import wire
from greetsvc.daemon.settings import Listener, Settings
from greetsvc.errors import ConfigError, reason_of
from greetsvc.ledger import Ledger
from greetsvc.net.datagram.port import DatagramPort
from greetsvc.net.datagram.udp import udp_port
from greetsvc.net.endpoint import Endpoint
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.linux.packets import keep_syn
from greetsvc.net.proxy.wrapper import ProxiedFactory
from greetsvc.net.sockets import MAX_BACKLOG, UnixPath, datagram_socket, unix_datagram_socket
from greetsvc.net.stream.facade import ListeningReactor
from greetsvc.net.tls.endpoint import tls_endpoint
from greetsvc.server.admission import Admission
from greetsvc.server.fast_datagram import FastGreetingDatagramProtocol
from greetsvc.server.fast_stream import FastGreetingFactory
from greetsvc.server.rendering import GreeterFailed
from greetsvc.server.stream import address_of
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import NOBODY, Address, Visit

__all__ = ["DatagramListening", "Premises", "StreamListening"]


@frozen(eq=False)
class Premises:
    """What all listeners of one service share."""

    reactor: Any
    settings: Settings
    ledger: Ledger
    admission: Admission
    policy: UdpPolicy
    lingerers: Lingerers
    ipv4_tcp: Collection[int] = frozenset()
    ipv4_udp: Collection[int] = frozenset()


class StreamListening:
    """One stream endpoint. It may listen on several ports; one of a plugin may listen only after a while."""

    def __init__(self, premises: Premises, listener: Listener) -> None:
        settings = premises.settings
        self.listener = listener
        self.factory = FastGreetingFactory(
            listener.greeter,
            ledger=premises.ledger,
            admission=premises.admission,
            deadline=settings.deadline,
            linger=settings.linger,
            transport=listener.endpoint.transport,
            reactor=premises.reactor,
        )
        self._facade = ListeningReactor(
            premises.reactor,
            lingerers=premises.lingerers,
            v4_ports=premises.ipv4_tcp,
            backlog=listener.endpoint.backlog or MAX_BACKLOG,
            wrap=self._behind_proxy if listener.endpoint.proxied else None,
            prepare=keep_syn if "path" in listener.greeter.needs else None,
            dropped=premises.ledger.refuse,
        )
        self._premises = premises
        self._proxied: list[ProxiedFactory] = []
        self._foreign: list[IListeningPort] = []  # ports that a plugin's endpoint did not make with our facade
        self._pending: Deferred[Any] | None = None
        self._report: Callable[[ConfigError], object]
        self._announce: Callable[[str], object] = lambda _place: None

    def bind(self, late: Callable[[ConfigError], object]) -> None:
        """Bind. Raises `ConfigError`; ``late`` is called with it when the endpoint fails after this has returned."""
        errors: list[ConfigError] = []
        self._report = errors.append
        try:
            endpoint = _stream_endpoint(self._facade, self.listener.endpoint, self._premises.settings.client_ca)
        except Exception as error:
            if isinstance(error, LookupError) and self.listener.endpoint.kind == "systemd":
                raise ConfigError(f"{self.listener.where}: the service manager passed no such socket") from error
            raise _config_error(self.listener, error) from error
        self._pending = maybeDeferred(endpoint.listen, self.factory)
        self._pending.addCallbacks(self._listens, self._fails)
        if errors:
            raise errors[0]
        self._report = late

    def _behind_proxy(self, factory: IProtocolFactory) -> ProxiedFactory:
        """The factory behind PROXY headers, which count when trusted networks send them."""
        premises = self._premises
        proxied = ProxiedFactory(
            factory,
            trusted=self._trusts,
            refused=premises.ledger.refuse,
            admission=premises.admission,
            reactor=premises.reactor,
        )
        self._proxied.append(proxied)
        return proxied

    def _trusts(self, host: str) -> bool:
        address = ip_address(Address.plain(host).host.partition("%")[0])
        return any(address in network for network in self._premises.settings.trust_proxy)

    def _listens(self, port: IListeningPort) -> None:
        self._pending = None
        if port not in self._facade.ports:
            self._foreign.append(port)
        self._announce(_place(port))

    def _fails(self, failure: Failure) -> None:
        self._pending = None
        if not failure.check(CancelledError):
            self._report(_config_error(self.listener, failure.value))

    def begin(self, announce: Callable[[str], object]) -> None:
        """Accept connections from now on, and call ``announce`` with each place, also with one that comes later."""
        self._facade.begin()
        self._announce = announce
        for place in self.places():
            announce(place)

    async def stop(self) -> None:
        """Stop listening; connections that wait in the queue are still greeted."""
        if self._pending is not None:
            self._report = lambda _error: None  # the cancellation is no failure
            self._pending.cancel()
        for port in (*self._facade.ports, *self._foreign):
            await maybeDeferred(port.stopListening)

    def abort(self) -> None:
        """Abort every open connection."""
        for proxied in self._proxied:
            proxied.abort()
        self.factory.abort()

    def places(self) -> list[str]:
        """Where connections are accepted: ``port: 8088`` or ``path: /run/greet.sock``."""
        return [_place(port) for port in (*self._facade.ports, *self._foreign)]


class DatagramListening:
    """One UDP port or UNIX datagram socket."""

    def __init__(self, premises: Premises, listener: Listener) -> None:
        self.listener = listener
        self.protocol = FastGreetingDatagramProtocol(
            listener.greeter, ledger=premises.ledger, policy=premises.policy, transport=listener.endpoint.transport
        )
        self._premises = premises
        self._port: DatagramPort | None = None

    def bind(self, late: Callable[[ConfigError], object]) -> None:
        """Make the socket and its port, which reads from `begin` on. Raises `ConfigError`, and never later."""
        endpoint, ledger, protocol = self.listener.endpoint, self._premises.ledger, self.protocol
        reactor, longest = self._premises.reactor, wire.MAX_REQUEST
        try:
            if endpoint.path is not None:
                sock = unix_datagram_socket(endpoint.path, mode=endpoint.mode)
                path = UnixPath(endpoint.path)
                self._port = DatagramPort(sock, protocol, reactor, longest=longest, path=path, dropped=ledger.refuse)
            else:
                port = endpoint.port or 0
                self._port = udp_port(
                    datagram_socket(endpoint.host or "", port, v6only=port in self._premises.ipv4_udp),
                    protocol,
                    reactor,
                    longest=longest,
                    headers="path" in self.listener.greeter.needs,
                    dropped=ledger.refuse,
                    batches=protocol,
                )
        except CannotListenError as error:
            raise _config_error(self.listener, error) from error

    def begin(self, announce: Callable[[str], object]) -> None:
        """Answer from now on, and ``announce`` the place."""
        if self._port is not None:
            self._port.startListening()
        for place in self.places():
            announce(place)

    async def stop(self) -> None:
        """Answer what has arrived, if ever started, and listen no longer."""
        if self._port is not None:
            self._port.drain()
            await self._port.stopListening()

    def places(self) -> list[str]:
        """Where datagrams are received, as `StreamListening.places`."""
        return [_place(self._port)] if self._port is not None else []

    @property
    def warning(self) -> str:
        """Why this greeting cannot be sent to all who ask for it, where that is known before a visit; else empty."""
        if self.listener.endpoint.transport != "udp" or not set(self.listener.greeter.needs) <= {"when"}:
            return ""
        try:
            greeting = self.protocol.rendering.of(lambda: Visit("udp", NOBODY, NOBODY, when=time.time()))
        except GreeterFailed:
            return ""
        where = f"udp {', '.join(self.places())}"
        if greeting.startswith(wire.MARK):
            return f"{where} answers nobody: the greeting begins with {wire.MARK.decode()!r}, which no answer may"
        if len(greeting) > wire.MAX_ANSWER:
            return f"{where} answers nobody: the greeting has {len(greeting)} bytes, and an answer {wire.MAX_ANSWER}"
        if len(greeting) > wire.MAX_PAID_ANSWER:
            return (
                f"{where} answers marked requests only: the greeting has {len(greeting)} bytes,"
                f" and an answer to others {wire.MAX_PAID_ANSWER}"
            )
        return ""

    @property
    def udp_port(self) -> int:
        """The UDP port; 0 where there is none."""
        return address_of(self._port.getHost()).port if self._port is not None else 0


def _stream_endpoint(reactor: ListeningReactor, endpoint: Endpoint, client_ca: str | None) -> IStreamServerEndpoint:
    if endpoint.path is not None:
        return UNIXServerEndpoint(reactor, endpoint.path, mode=endpoint.mode, wantPID=False)
    if endpoint.transport == "tls":
        return tls_endpoint(reactor, endpoint, client_ca=client_ca)
    return cast(IStreamServerEndpoint, serverFromString(reactor, endpoint.text))


def _place(port: IListeningPort) -> str:
    address = address_of(port.getHost())
    return f"port: {address.port}" if address.port else f"path: {address.host}"


def _config_error(listener: Listener, error: BaseException | None) -> ConfigError:
    if isinstance(error, CannotListenError):
        where = f"{error.interface or 'every IPv4 address'}, port {error.port}"
        if listener.endpoint.path is not None:
            where = str(error.port)
        return ConfigError(f"{listener.where}: cannot listen on {where}: {reason_of(error.socketError)}")
    return ConfigError(f"{listener.where}: {reason_of(error or ValueError())}")
